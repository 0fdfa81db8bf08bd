"""Runs inside a sandbox as root: tries every target at once, and prints the names of those that answered.

The argument is JSON, name to [kind, address, port]. It uses only the standard library and iproute2.
"""

import json
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

SECONDS = 1.0
SPOOFED = "198.51.100.200"
MARK = b"knocking on the wall"


def prepare() -> None:
    """IPv6 switched on again, addresses and routes of our own: what a root in a network namespace can do."""
    for name in ("accept_dad", "disable_ipv6"):  # in this order, or an address could be used only a second later
        for interface in ("all", "eth0"):
            Path(f"/proc/sys/net/ipv6/conf/{interface}/{name}").write_text("0")
    gateway = subprocess.check_output(["ip", "route", "show", "default"], text=True).split()[2]
    for command in (
        "ip link set eth0 up",
        "ip -6 address add fd00:213::2/64 dev eth0 nodad",
        f"ip address add {SPOOFED}/32 dev lo",
        f"ip route replace 169.254.0.0/16 via {gateway}",
        f"ip route replace 10.213.0.0/16 via {gateway}",
        f"ip route replace 198.18.0.0/15 via {gateway}",
    ):
        subprocess.run(command.split(), capture_output=True, check=False)


def attempt(kind: str, address: str, port: int) -> bool:
    """Whether somebody answers."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    to = socket.getaddrinfo(address, port, family, flags=socket.AI_NUMERICHOST)[0][4]
    if kind == "tcp":
        with socket.socket(family) as sock:
            sock.settimeout(SECONDS)
            sock.connect(to)
            return True
    if kind == "udp":
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SECONDS)
            sock.sendto(MARK, to)
            return sock.recv(100) == MARK
    if kind == "icmp":
        return ping(family, to)
    return spoof(address, port)


def ping(family: int, to: tuple[Any, ...]) -> bool:
    """An echo request that is answered."""
    four = family == socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMP if four else socket.IPPROTO_ICMPV6) as sock:
        sock.settimeout(SECONDS)
        packet = struct.pack("!BBHHH", 8 if four else 128, 0, 0, 7, 7) + MARK
        packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]
        sock.sendto(packet, (to[0], 0, *to[2:]))
        while True:
            answer, sender = sock.recvfrom(2048)
            if sender[0].partition("%")[0] == to[0].partition("%")[0] and answer[20 if four else 0] in (0, 129):
                return True


def spoof(address: str, port: int) -> bool:
    """A packet from an address that is not ours but that we listen on; its answer says that it got out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        sock.bind((SPOOFED, 0))
        sock.sendto(MARK, (address, port))
        return sock.recv(100) == MARK


def checksum(packet: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def main() -> None:
    prepare()
    answered = []

    def run(name: str, target: list[Any]) -> None:
        try:
            if attempt(*target):
                answered.append(name)
        except OSError:
            pass

    threads = [threading.Thread(target=run, args=item) for item in json.loads(sys.argv[1]).items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(answered))


if __name__ == "__main__":
    main()
