"""The hooks of GitLab's custom executor: thin clients of the running service, and what the service does for them."""
