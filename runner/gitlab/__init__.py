"""The hooks of GitLab's custom executor, which are thin clients of the running service, and the service's side."""
