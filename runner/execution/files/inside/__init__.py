"""Programs that handle a job's files in the sandbox, sent with `sandbox.archives`. Other code uses parts of them."""
