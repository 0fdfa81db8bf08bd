"""Makes, proves, lends and recreates sandboxes: unprivileged containers with their own sshd and Docker Engine."""
