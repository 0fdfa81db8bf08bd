"""Takes jobs, runs each script in a sandbox over SSH, keeps the log and says how it ended."""
