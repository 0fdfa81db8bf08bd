"""`runner doctor`: is this runner fit for jobs? Gathers facts (`gather`, `canary`), then judges them (`checks`).

It changes nothing, except by the job that the user may ask for.
"""
