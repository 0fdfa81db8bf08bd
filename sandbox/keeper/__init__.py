"""The one process that holds the Docker socket: it owns the warm pool and lends sandboxes over a unix socket."""
