"""Programs for a job's files in the sandbox, sent with `sandbox.archives`. They also read archives elsewhere."""
