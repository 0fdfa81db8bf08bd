"""The private engine's own network namespace and its one way out.

Two Docker Engines in one network namespace flush each other's firewall chains, so ours gets a namespace of its own,
with a link to the host, a masquerade rule on the host, and a route by which the host reaches containers at their
addresses, as with an ordinary engine. Everything here may be called again at any time; it restores what the host lost.
"""

import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

from sandbox.evaluation.host import Say, have, named, run, succeeds
from sandbox.evaluation.layout import KEEPER_RANGE, Layout

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
ORDINARY_MTU = 1500
# Where a host keeps its upstream name servers when /etc/resolv.conf names only a resolver on its loopback.
RESOLVER_FILES = (
    Path("/etc/resolv.conf"),
    Path("/run/systemd/resolve/resolv.conf"),
    Path("/run/NetworkManager/no-stub-resolv.conf"),
)
PUBLIC_RESOLVERS = ("8.8.8.8", "8.8.4.4")  # Docker's own fallback

Rule = tuple[str, str, list[str]]
"""A firewall rule: table, chain and the rest."""


def ensure(layout: Layout, say: Say) -> None:
    """Make the namespace, its link, the way out and the way in, where they are missing."""
    if not layout.netns_file.exists() or not succeeds("nsenter", f"--net={layout.netns_file}", "true"):
        run("ip", "netns", "delete", layout.netns, check=False)
        run("ip", "netns", "add", layout.netns)
        say(f"network namespace {layout.netns} made")
    _ensure_link(layout)
    _ensure_forwarding(layout, say)
    iptables = working_iptables()
    for table, chain, rule in host_rules(layout, _uplink(), forward_is_open(run(iptables, "-S", "FORWARD"))):
        _ensure_rule([iptables], table, chain, rule)
    inside = [*_enter(layout), working_iptables(_enter(layout))]
    # Docker makes this chain at its start and keeps its contents.
    run(*inside, "-N", "DOCKER-USER", check=False)
    _ensure_rule(
        inside, "filter", "DOCKER-USER", ["-i", layout.engine_link, "-s", str(layout.host_address), "-j", "ACCEPT"]
    )


def remove(layout: Layout, say: Say) -> None:
    """Undo everything that `ensure` did."""
    if have("iptables"):
        iptables = working_iptables()
        for table, chain, rule in host_rules(layout, _uplink(), forward_is_open=False):
            while succeeds(iptables, "-w", "-t", table, "-D", chain, *rule):
                pass  # somebody may have doubled a rule
    run("ip", "link", "delete", layout.host_link, check=False)
    run("ip", "netns", "delete", layout.netns, check=False)
    if layout.changes.exists():
        before = json.loads(layout.changes.read_text(encoding="utf-8"))["ip_forward"]
        FORWARDING.write_text(before, encoding="ascii")
        say(f"net.ipv4.ip_forward set back to {before}")
        layout.changes.unlink()


def host_rules(layout: Layout, uplink: str | None, forward_is_open: bool) -> list[Rule]:
    """Return the host's rules: masquerade the engine's packets, and let them pass on a host that forwards little."""
    link = layout.host_link
    rules: list[Rule] = [("nat", "POSTROUTING", ["-s", str(layout.link), "!", "-o", link, "-j", "MASQUERADE"])]
    if not forward_is_open and uplink is not None:
        answers = ["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"]
        rules += [
            ("filter", "FORWARD", ["-i", link, "-o", uplink, "-j", "ACCEPT"]),
            ("filter", "FORWARD", ["-i", uplink, "-o", link, *answers, "-j", "ACCEPT"]),
        ]
    return rules


def forward_is_open(listing: str) -> bool:
    """Whether `iptables -S FORWARD` shows a chain that lets everything pass. Another Docker Engine closes it."""
    return [line for line in listing.splitlines() if line.startswith("-")] == ["-P FORWARD ACCEPT"]


def working_iptables(prefix: Sequence[str] = ()) -> str:
    """Return the iptables that works with this kernel and this host's other rules."""
    for name in ("iptables", "iptables-nft", "iptables-legacy"):
        if have(name) and succeeds(*prefix, name, "-t", "nat", "-S"):
            return name
    return "iptables"  # its own error message is the best explanation


def uplink_mtu() -> int:
    """Return the MTU of the host's way out, which containers must not exceed."""
    try:
        return int(Path(f"/sys/class/net/{_uplink()}/mtu").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return ORDINARY_MTU


def resolv_conf(say: Say) -> str:
    """Write a resolv.conf for a namespace that cannot reach the host's loopback."""
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in RESOLVER_FILES if file.is_file()]
    servers, others = usable_resolvers(texts)
    if not servers:
        servers = list(PUBLIC_RESOLVERS)
        say(
            "this host resolves names on its own loopback, which the engine's namespace does not see; "
            f"the engine uses {named(servers)} instead"
        )
    return "".join(f"nameserver {server}\n" for server in servers) + "".join(f"{line}\n" for line in others)


def usable_resolvers(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the name servers off the loopback from the first file that has any, and that file's other settings."""
    for text in texts:
        lines = [line.split() for line in text.splitlines()]
        servers = [fields[1] for fields in lines if fields[:1] == ["nameserver"] and len(fields) > 1]
        usable = [server for server in servers if not _is_loopback(server)]
        if usable:
            return usable, [" ".join(fields) for fields in lines if fields[:1] in (["search"], ["options"])]
    return [], []


def _is_loopback(server: str) -> bool:
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return True
    # The namespace has no way out over IPv6.
    return address.is_loopback or address.version != 4


def _ensure_link(layout: Layout) -> None:
    enter = _enter(layout)
    mtu = str(uplink_mtu())
    if not succeeds("ip", "link", "show", layout.host_link):
        peer = ["peer", "name", layout.engine_link, "netns", layout.netns]
        run("ip", "link", "add", layout.host_link, "type", "veth", *peer)
    run("ip", "address", "replace", f"{layout.host_address}/{layout.link.prefixlen}", "dev", layout.host_link)
    run("ip", "link", "set", layout.host_link, "up", "mtu", mtu)
    run(*enter, "ip", "link", "set", "lo", "up")
    run(
        *enter,
        "ip",
        "address",
        "replace",
        f"{layout.engine_address}/{layout.link.prefixlen}",
        "dev",
        layout.engine_link,
    )
    run(*enter, "ip", "link", "set", layout.engine_link, "up", "mtu", mtu)
    run(*enter, "ip", "route", "replace", "default", "via", str(layout.host_address))
    for reached in (layout.addresses, KEEPER_RANGE):
        # Added, not replaced: an existing route for this range belongs to the host.
        run("ip", "route", "add", str(reached), "via", str(layout.engine_address), check=False)


def _ensure_forwarding(layout: Layout, say: Say) -> None:
    before = FORWARDING.read_text(encoding="ascii").strip()
    if before != "1":
        layout.changes.write_text(json.dumps({"ip_forward": before}), encoding="utf-8")
        FORWARDING.write_text("1", encoding="ascii")
        say("net.ipv4.ip_forward switched on, for the engine's way out; `down` sets it back")


def _ensure_rule(iptables: Sequence[str], table: str, chain: str, rule: Sequence[str]) -> None:
    if not succeeds(*iptables, "-w", "-t", table, "-C", chain, *rule):
        run(*iptables, "-w", "-t", table, "-I", chain, *rule)


def _enter(layout: Layout) -> list[str]:
    # Not `ip netns exec`: it mounts a new /sys, which hides the cgroups.
    return ["nsenter", f"--net={layout.netns_file}"]


def _uplink() -> str | None:
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "default") or "[]")
    return next((route["dev"] for route in routes if "dev" in route), None)
