"""The walls in the kernel: loads the table of `ruleset`, and checks whether it still stands. The only caller of nft.

It works in the network namespace of its own process. That must be the engine's, which has the sandboxes' bridges.
"""

import json
import socket
import subprocess
import threading
from collections.abc import Collection
from contextlib import suppress
from enum import StrEnum
from ipaddress import IPv4Network

from sandbox.errors import SandboxError
from sandbox.network.generation import generation
from sandbox.network.ruleset import END_MARK, Count, Refusal, Wall, check_bridge, installation_of, render, table_name
from sandbox.template import InstallationId
from sandbox.text import one_line

NFT_DEADLINE = 5.0
"""Seconds for one call of nft; a few milliseconds are usual."""


class WallsDown(SandboxError):
    """The walls could not be put up or could not be read: no sandbox may be lent."""


class _NoTable(WallsDown):
    """The table does not exist."""


class WallState(StrEnum):
    """How `Walls.ensure` found the walls, which stand after it."""

    STANDING = "standing"
    """They stood as they should."""
    LOADED = "loaded"
    """They were loaded for the first time, or because the wanted rules have changed."""
    PUT_BACK = "put-back"
    """Somebody had removed or changed them since the last call; they did not stand until now."""


class Walls:
    """The walls of one installation. Safe to call from any thread."""

    def __init__(self, installation: InstallationId) -> None:
        self._installation = installation
        self._table = table_name(installation)
        self._lock = threading.Lock()
        self._walls: dict[str, Wall] = {}
        self._neighbours: frozenset[IPv4Network] = frozenset()
        self._loaded = False
        self._standing = ""
        self._seen: int | None = None
        self._counts: dict[Refusal, Count] = {}

    def put(self, bridge: str, wall: Wall) -> None:
        """Set the wall around the sandbox on this bridge, from the next `ensure` on.

        A bridge of this installation without a wall is closed completely.
        """
        check_bridge(self._installation, bridge)
        with self._lock:
            self._loaded = self._loaded and self._walls.get(bridge) == wall
            self._walls[bridge] = wall

    def forget(self, bridge: str) -> None:
        """Forget the sandbox on this bridge, which is gone; the bridge, if it still exists, is closed completely."""
        with self._lock:
            self._loaded = self._loaded and bridge not in self._walls
            self._walls.pop(bridge, None)

    def ensure(self, neighbours: Collection[IPv4Network] | None = None) -> WallState:
        """Make the walls stand as they were put. Takes microseconds unless a firewall rule was changed since.

        `neighbours` are the engine's bridge networks, which no sandbox may call. They include our own: a subnet does
        not tell its owner, and another installation may use the same range. Without `neighbours`, the last ones count.
        Raises `WallsDown`.
        """
        with self._lock:
            if neighbours is not None:
                self._loaded = self._loaded and self._neighbours == frozenset(neighbours)
                self._neighbours = frozenset(neighbours)
            lost = bool(self._standing) and not self._stands()
            if self._loaded and not lost:
                return WallState.STANDING
            self._load()
            return WallState.PUT_BACK if lost else WallState.LOADED

    def counters(self) -> dict[Refusal, Count]:
        """Return the refusals since the keeper's start, and those of its earlier lives if the table outlived them.

        Raises `WallsDown`.
        """
        with self._lock:
            self._read_counters()
            return dict(self._counts)

    def remove(self) -> None:
        """Remove the table. Not to be called while there are sandboxes. Raises `WallsDown`."""
        with self._lock, suppress(_NoTable):
            self._loaded, self._standing = False, ""
            _nft("delete", "table", "inet", self._table)

    def _load(self) -> None:
        self._loaded = False  # until the check below
        with suppress(_NoTable):  # then the counters continue from the values read last
            self._read_counters()
        _nft("-f", "-", given=render(self._installation, self._walls, self._neighbours, self._counts))
        # Versions of nft print a table differently: later output is compared with what this nft prints now.
        seen, self._standing = generation(), self._list()
        if END_MARK not in self._standing:
            raise WallsDown(
                f"The firewall table {self._table} was removed again as soon as it was loaded. Find out what keeps "
                "flushing the host's firewall, and have it leave this table alone."
            )
        self._loaded, self._seen = True, seen

    def _stands(self) -> bool:
        """Return whether the table is as it was loaded. Reads it only if some rule was changed since the last look."""
        now = generation()  # before reading the table: a change meanwhile is seen at the next look
        if now is not None and now == self._seen:
            return True
        standing = self._list() == self._standing
        self._seen = now if standing else None
        return standing

    def _list(self) -> str:
        """Return the table without its counters' values; empty when there is none."""
        try:
            return _nft("--stateless", "list", "table", "inet", self._table)
        except _NoTable:
            return ""

    def _read_counters(self) -> None:
        listed = json.loads(_nft("--json", "list", "counters", "table", "inet", self._table))
        counters = [entry["counter"] for entry in listed["nftables"] if "counter" in entry]
        by_name = {counter["name"]: Count(counter["packets"], counter["bytes"]) for counter in counters}
        self._counts = {why: by_name.get(f"refused_{why}", Count(0, 0)) for why in Refusal}


def walled() -> set[InstallationId]:
    """Return every installation whose walls stand here, even without sandboxes. Raises `WallsDown`."""
    listed = json.loads(_nft("--json", "list", "tables", "inet"))["nftables"]
    names = [entry["table"]["name"] for entry in listed if "table" in entry]
    return {found for name in names if (found := installation_of(name))}


def walls_fit() -> bool:
    """Check that nft and the kernel would take the walls' table; changes nothing. Raises `WallsDown` if not."""
    _nft("--check", "-f", "-", given=render(InstallationId("0" * 8), {}, (), {}))
    return True


def require_bridge(bridge: str) -> None:
    """Raise `WallsDown` unless this bridge is in the network namespace of this process, where the walls are."""
    try:
        # Not /sys/class/net, which shows the namespace that /sys was mounted in.
        socket.if_nametoindex(bridge)
    except OSError:
        raise WallsDown(
            f"The bridge {bridge} is not to be seen here, so no wall can stand around it: this is another network "
            "namespace than the Docker Engine's. Run it in the engine's (`network_mode: host` in a container)."
        ) from None


def _nft(*arguments: str, given: str = "") -> str:
    try:
        process = subprocess.Popen(
            ["nft", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        raise WallsDown(
            "There is no `nft` command, and without it no walls around the sandboxes. Install nftables."
        ) from None
    try:
        printed, complaint = process.communicate(given, timeout=NFT_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # a process that hangs in the kernel does not even die
            process.communicate(timeout=1.0)
        raise WallsDown(f"nft did not finish within {NFT_DEADLINE:.0f} s: the kernel's firewall hangs.") from None
    if process.returncode != 0:
        raise _refused(one_line(complaint).strip()[:500] or f"it ended with {process.returncode} without a word")
    return printed


def _refused(complaint: str) -> WallsDown:
    if "No such file or directory" in complaint and "table inet" in complaint:
        return _NoTable(f"The firewall table is not there: {complaint}")
    if "Operation not permitted" in complaint:
        return WallsDown(
            "The keeper may not set up the walls around the sandboxes. Run it as root with the capability NET_ADMIN "
            "(`cap_add: [NET_ADMIN]` in a container)."
        )
    return WallsDown(f"nft refused the walls around the sandboxes: {complaint}")
