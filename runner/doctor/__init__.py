"""`runner doctor`: is this runner fit for jobs? Facts are gathered (`gather`, `canary`), then judged (`checks`).

It changes nothing, but for the job that somebody asks for.
"""
