"""Asks the keeper whether it is fit, for health checks. Avoids `protocol`: its models cost more than the question."""

import json
from pathlib import Path

from sandbox.errors import KeeperRefused, ProtocolError
from sandbox.keeper.exchange import exchange

REQUEST = b'{"version":2,"request":{"verb":"ping"}}\n'


def main(keeper: str | Path) -> int:
    """Print what the keeper at this socket says of itself, and return the exit code. Raises `KeeperError`."""
    line, _ = exchange(Path(keeper), REQUEST)
    try:
        answer = json.loads(line)
        if "refused" in answer:
            raise KeeperRefused(answer["refused"])
        fit, message = answer["fit"] is True, str(answer["message"])
    except (ValueError, KeyError, TypeError):
        raise ProtocolError("The keeper's answer was not understood. Are both of the same release?") from None
    print(message)
    return 0 if fit else 1
