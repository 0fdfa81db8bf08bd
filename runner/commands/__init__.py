"""The commands that work over the service's API, each a module: arguments in, text and exit codes out."""
