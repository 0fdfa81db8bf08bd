"""The hooks as gitlab-runner calls them: a simulator of its manager, scenarios as files, and what surrounds them."""
