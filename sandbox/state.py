"""The life of a sandbox: one table says which moves exist, and every write of a state goes through it."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from sandbox.errors import SandboxError


class State(StrEnum):
    """Where a sandbox is in its life. The values are stable: logs and `sandbox ls --json` contain them."""

    PREPARING = "preparing"
    """Being made in advance."""
    PREPARED = "prepared"
    """Made in advance and not started; the next sandbox is started from it."""
    CREATING = "creating"
    BOOTING = "booting"
    READY = "ready"
    LEASED = "leased"
    ORPHANED = "orphaned"
    INSPECTING = "inspecting"
    HELD = "held"
    CONDEMNED = "condemned"
    DESTROYING = "destroying"
    STUCK = "stuck"
    GONE = "gone"


class IllegalMove(SandboxError):
    """A sandbox cannot move from its state to the requested one: a defect of the keeper, never of a job."""


IN_ADVANCE = frozenset({State.PREPARING, State.PREPARED})
"""Not a sandbox yet: it takes up no place, and nobody waits for it."""
BEING_MADE = frozenset({State.CREATING, State.BOOTING})
"""Before its first proof: it keeps the container runtime busy."""
_ALIVE = frozenset(
    {State.CREATING, State.BOOTING, State.READY, State.LEASED, State.ORPHANED, State.INSPECTING, State.HELD}
)

MOVES: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.PREPARING: frozenset({State.PREPARED, State.CONDEMNED}),
        State.PREPARED: frozenset({State.CREATING, State.CONDEMNED}),
        State.CREATING: frozenset({State.BOOTING, State.CONDEMNED}),
        State.BOOTING: frozenset({State.READY, State.CONDEMNED}),
        State.READY: frozenset({State.LEASED, State.INSPECTING, State.HELD, State.CONDEMNED}),
        State.LEASED: frozenset({State.ORPHANED, State.INSPECTING, State.HELD, State.CONDEMNED}),
        State.ORPHANED: frozenset({State.LEASED, State.INSPECTING, State.HELD, State.CONDEMNED}),
        State.INSPECTING: frozenset({State.READY, State.HELD, State.CONDEMNED}),
        State.HELD: frozenset({State.CONDEMNED}),
        State.CONDEMNED: frozenset({State.DESTROYING}),
        State.DESTROYING: frozenset({State.GONE, State.STUCK}),
        State.STUCK: frozenset({State.DESTROYING}),
        State.GONE: frozenset(),
    }
)
"""For each state, the states that may follow. Staying in a state is no move and always allowed."""


def check_move(name: str, current: State, target: State) -> None:
    """Raise `IllegalMove` unless the sandbox `name` may go from `current` to `target`."""
    if target is not current and target not in MOVES[current]:
        raise IllegalMove(f"Sandbox {name} cannot move from {current} to {target}; this is a defect in the keeper.")


def is_alive(state: State) -> bool:
    """Whether a sandbox in this state takes up a place, and serves or will serve."""
    return state in _ALIVE


def can_be_condemned(state: State) -> bool:
    """Whether a sandbox in this state is not yet on its way out."""
    return State.CONDEMNED in MOVES[state]
