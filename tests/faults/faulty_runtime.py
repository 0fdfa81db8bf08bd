"""An OCI runtime that passes everything on to a real one, but hangs or fails in the verbs that it is told to.

Files in its control folder tell it, one per verb (`runtime_control.Control` writes them): the first line is `hang`,
`fail WORDS` or `delay SECONDS`; a second line limits this to one container, by the beginning of its id. A verb that
hangs goes on when its file is gone, just as the calls that sysbox holds up go on when sysbox does.

Engines call it by a script of its own (`runtime_control.write_launcher`) as `python -I -S faulty_runtime.py CONTROL
RUNTIME …`: it imports the standard library only.
"""

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import NoReturn

VERBS = ("create", "start", "kill", "delete", "exec", "pause", "resume", "state", "update", "ps", "events", "features")
SEEN = "seen"
POLL_SECONDS = 0.05


def verb_and_container(words: list[str]) -> tuple[str, str]:
    """What a runtime's command line asks for, and of which container; either may be empty."""
    verb = next((word for word in words if word in VERBS), "")
    container = next((word for word in words if re.fullmatch(r"[0-9a-f]{64}", word)), "")
    return verb, container


def order_for(control: Path, verb: str, container: str) -> list[str]:
    """The words of the order there is now, or none."""
    try:
        order, _, whose = (control / verb).read_text(encoding="utf-8").strip().partition("\n")
    except OSError:
        return []
    return order.split(maxsplit=1) if container.startswith(whose) else []


def obey(control: Path, words: list[str]) -> None:
    """Hang, wait or fail as ordered; return when the real runtime's turn has come."""
    verb, container = verb_and_container(words)
    with (control / SEEN).open("a", encoding="utf-8") as seen:
        seen.write(f"{verb} {container}\n")
    while (order := order_for(control, verb, container))[:1] == ["hang"]:
        time.sleep(POLL_SECONDS)
    match order:
        case ["delay", seconds]:
            time.sleep(float(seconds))
        case ["fail", reason]:
            fail(reason, words)


def fail(reason: str, words: list[str]) -> NoReturn:
    """End as a runtime does that could not: with the reason in its log, from which the engine takes what it shows."""
    if "--log" in words:
        with Path(words[words.index("--log") + 1]).open("a", encoding="utf-8") as log:
            log.write(json.dumps({"level": "error", "msg": reason, "time": "2000-01-01T00:00:00Z"}) + "\n")
    sys.exit(reason)


def main(control: str, runtime: str, *words: str) -> NoReturn:
    """Obey, and let the real runtime take this process's place."""
    obey(Path(control), list(words))
    os.execv(runtime, [runtime, *words])


if __name__ == "__main__":
    main(*sys.argv[1:])
