"""Cuts SSH between the host and one sandbox, in a firewall table of its own in the engine's network namespace."""

from __future__ import annotations

import subprocess
from enum import Enum
from ipaddress import IPv4Address
from typing import Final

from tests.e2e.conftest import in_network_of_engine

_SSH: Final = 22


class Cut(Enum):
    """What becomes of a packet."""

    RESET = "reject with tcp reset"
    DROP = "drop"


class WireCutter:
    """One sandbox's way in."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._table = f"crash_test_{address.replace('.', '_')}"  # others may test on the same engine
        self._dead: set[int] = set()

    def cut(self, how: Cut, *, new: bool) -> None:
        """Cut the connections that there are, for good; with `new`, also drop whatever tries to connect meanwhile."""
        self._dead = self._dead or self._local_ports()
        there, back = f"ip daddr {self._address} tcp dport {_SSH}", f"ip saddr {self._address} tcp sport {_SSH}"
        dead = f"{{ {', '.join(map(str, self._dead))} }}"
        output = [f"{there} tcp sport {dead} {how.value}"] if self._dead else []
        input_ = [f"{back} tcp dport {dead} {how.value}"] if self._dead else []
        if new:
            output.append(f"{there} drop")
            input_.append(f"{back} drop")
        self.mend()
        # The resets themselves must pass; and before everybody else's rules.
        _nft(f"""
            table inet {self._table} {{
                chain output {{
                    type filter hook output priority -300; tcp flags & rst == rst accept; {"; ".join(output)};
                }}
                chain input {{
                    type filter hook input priority -300; tcp flags & rst == rst accept; {"; ".join(input_)};
                }}
            }}
        """)

    def tries(self) -> set[int]:
        """The ports of connections that are there, or are tried, since the cut."""
        return self._local_ports() - self._dead

    def mend(self) -> None:
        """Let everything through again. Idempotent."""
        _nft(f"table inet {self._table}; delete table inet {self._table}")

    def _local_ports(self) -> set[int]:
        """The ports of this side's ends of the connections that there are."""
        listing = subprocess.run(
            [*in_network_of_engine(), "cat", "/proc/net/tcp"], capture_output=True, text=True, check=True, timeout=10
        ).stdout
        remote = f"{int.from_bytes(IPv4Address(self._address).packed, 'little'):08X}:{_SSH:04X}"
        ends = [line.split()[1:3] for line in listing.splitlines()[1:]]
        return {int(local.rpartition(":")[2], 16) for local, other in ends if other == remote}


def _nft(commands: str) -> None:
    subprocess.run([*in_network_of_engine(), "nft", "-f", "-"], input=commands.encode(), check=True, timeout=10)
