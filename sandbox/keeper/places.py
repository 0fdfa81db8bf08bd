"""Where the keeper's socket is. Vocabulary: whoever only names it pays for nothing else."""

DEFAULT_RUN_FOLDER = "/run/sandbox"
SOCKET_IN_RUN_FOLDER = "keeper/socket"
DEFAULT_SOCKET = f"{DEFAULT_RUN_FOLDER}/{SOCKET_IN_RUN_FOLDER}"
