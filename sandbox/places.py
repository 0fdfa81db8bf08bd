"""Where the keeper's socket and state are. Vocabulary: importing it costs nothing else."""

DEFAULT_RUN_FOLDER = "/run/sandbox"
SOCKET_IN_RUN_FOLDER = "keeper/socket"
DEFAULT_SOCKET = f"{DEFAULT_RUN_FOLDER}/{SOCKET_IN_RUN_FOLDER}"
DEFAULT_HOME = "/var/lib/sandbox"
SOCKET_VARIABLE = "SANDBOX_KEEPER"
"""The environment variable for another socket."""
