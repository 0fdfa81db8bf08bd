"""What breaks when, by a seed; and what a job writes. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    """What happens. A new one needs a line here and its act in `lab`."""

    KILL_RUNNER = "runner killed"
    KILL_KEEPER = "keeper killed"
    UPGRADE_RUNNER = "runner restarted for an upgrade"
    REMOVE_SANDBOX = "sandbox removed"
    WRECK_SANDBOX = "sandbox's SSH server killed"
    CUT_SSH = "SSH reset"
    LOCK_STORE = "store locked"
    STALL_ENGINE = "engine stalled and back"
    DRAIN = "drained and resumed"
    REFRESH_IMAGE = "sandbox image built anew"


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault."""

    at: float
    """Seconds from the beginning."""
    fault: Fault


PAUSE: Final = (3.0, 5.9)
"""Seconds between two faults: jobs come to an end in between, and a minute has all of them."""
TEAMS: Final = 2
"""Clients share as many trust keys as there are sandboxes: another key costs a new sandbox."""
VISITS: Final = 0.01
"""How often a job is of another key."""
START, FACTOR, MASK = 1, 1103515245, 0x7FFFFFFF
"""What each line of a job has in it follows from the line before."""
COSTS: Final[Mapping[Fault, int]] = {Fault.REMOVE_SANDBOX: 1, Fault.WRECK_SANDBOX: 1}
"""How many jobs a fault may cost: the one whose sandbox it takes. Those that are not here may cost none."""


def schedule(seed: int, seconds: float) -> Iterator[Strike]:
    """Yield the faults of a run, in their order: each kind once in every round, in a new order."""
    chance = random.Random(seed)
    at = 0.0
    while True:
        for fault in chance.sample(list(Fault), len(Fault)):
            at += chance.uniform(*PAUSE)
            if at >= seconds:
                return
            yield Strike(at, fault)


def script(name: str, lines: int) -> str:
    """Return a script that says once that it began, and then what `output` knows. It starts no program."""
    return (
        f"echo begin {name}\n"
        f"sum={START}\n"
        f"for ((n = 1; n <= {lines}; n++)); do\n"
        f"  sum=$(((sum * {FACTOR} + n) & {MASK}))\n"
        f'  echo "{name} $n $sum"\n'
        "done\n"
        f"echo end {name}\n"
    )


def output(name: str, lines: int) -> bytes:
    """Return all that the script writes."""
    middle, value = "", START
    for n in range(1, lines + 1):
        value = (value * FACTOR + n) & MASK
        middle += f"{name} {n} {value}\n"
    return f"begin {name}\n{middle}end {name}\n".encode()


def trust_key(client: int, chance: random.Random) -> str:
    """Return whose a client's next job is: its team's, and now and then one of its own, which needs a fresh sandbox."""
    return f"visitor-{client}" if chance.random() < VISITS else f"team-{client % TEAMS}"
