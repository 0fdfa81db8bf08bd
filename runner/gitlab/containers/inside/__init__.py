"""Programs that run in a sandbox with Python 3.11 or later. They import only the standard library and each other.

They run as the job's user beside the job, which can break them. The runner trusts none of their output.
"""
