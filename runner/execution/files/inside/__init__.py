"""What runs in the sandbox for a job's files, and reads archives elsewhere. It takes `sandbox.archives` along."""
