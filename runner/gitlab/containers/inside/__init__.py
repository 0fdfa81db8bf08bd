"""Programs that run in a sandbox: standard library only, Python 3.11 or later, nothing of ours but each other.

They run as the job's user beside the job, which can break them. The runner trusts nothing that they say.
"""
