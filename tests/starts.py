"""The modules that a command of ours loads at its start, and the other programs that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

_PROGRAM: Final = """
import json, sys
children = []
sys.addaudithook(lambda event, given: event == "subprocess.Popen" and children.append(str(given[0])))
sys.argv = {argv}
try:
    {does}
except SystemExit:
    pass
loaded = [name for name, module in sys.modules.items() if module]
print(json.dumps([loaded, children]), file=sys.stderr)
"""


def start(*argv: str, does: str) -> tuple[set[str], list[str]]:
    """Do something in a fresh Python with these arguments; returns the modules that are loaded then, and the children
    that were started on the way."""
    program = _PROGRAM.format(argv=list(argv), does=does)
    said = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    ).stderr.splitlines()[-1]
    loaded, children = json.loads(said)
    return set(loaded), children
