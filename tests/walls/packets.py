"""Sends any packet from anywhere, and sees whether it arrives."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from tests.walls.namespaces import Namespace

MARK = b"knocking on the wall"
EXPERIMENT = 253
"""A protocol number set aside for experiments (RFC 3692), which nobody has special rules for."""
ECHO_REQUEST = 8
ECHO_REQUEST_6 = 128
UNREACHABLE = (3, 3)


class Kind(Enum):
    """What is sent; the value is the protocol's number."""

    TCP = socket.IPPROTO_TCP
    UDP = socket.IPPROTO_UDP
    ICMP = socket.IPPROTO_ICMP
    OTHER = EXPERIMENT


@dataclass
class Ear:
    """Hears what is delivered in a namespace for one protocol, on whatever address and port."""

    sock: socket.socket
    heard: Callable[[bytes], bool]

    def has_heard(self) -> bool:
        try:
            while True:
                if self.heard(self.sock.recv(65536)):
                    return True
        except BlockingIOError:
            return False

    def forget(self) -> None:
        """What came so far, a broadcast's second copy among it, is none of what comes now."""
        while self.has_heard():
            pass


def ear(where: Namespace, kind: Kind, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> Ear:
    """Listen for what `send` sends. For TCP that is the call itself, which carries nothing but the port."""
    number = socket.IPPROTO_ICMPV6 if kind is Kind.ICMP and family is socket.AF_INET6 else kind.value
    header = 20 if family is socket.AF_INET else 0  # IPv6 raw sockets do not show theirs
    sock = where.call(lambda: socket.socket(family, socket.SOCK_RAW, number))
    sock.setblocking(False)
    if kind is Kind.TCP:
        return Ear(sock, lambda packet: struct.unpack_from("!H", packet, header + 2) == (port,))
    return Ear(sock, lambda packet: MARK in packet)


def send(where: Namespace, kind: Kind, address: str, port: int = 0, options: bytes = b"") -> socket.socket:
    """Send one packet of this kind. The socket is returned, for answers; for TCP it is connecting."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    types = {Kind.TCP: socket.SOCK_STREAM, Kind.UDP: socket.SOCK_DGRAM}
    number = socket.IPPROTO_ICMPV6 if kind is Kind.ICMP and family is socket.AF_INET6 else kind.value
    sock = where.call(lambda: socket.socket(family, types.get(kind, socket.SOCK_RAW), number))
    sock.setblocking(False)
    if options:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
    # Looked up in the namespace, since an IPv6 address may name an interface of it. Raw sockets know no ports.
    port = port if kind in types else 0
    to = where.call(lambda: socket.getaddrinfo(address, port, family, flags=socket.AI_NUMERICHOST)[0][4])
    if kind is Kind.TCP:
        sock.connect_ex(to)
        return sock
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    ping = echo(ECHO_REQUEST if family is socket.AF_INET else ECHO_REQUEST_6)
    with suppress(PermissionError):  # a host tells its own programs what its firewall drops
        sock.sendto(ping if kind is Kind.ICMP else MARK, to)
    return sock


def send_spoofed(where: Namespace, source: str, address: str, port: int) -> socket.socket:
    """Send a UDP packet that claims to come from elsewhere."""
    udp = struct.pack("!HHHH", port, port, 8 + len(MARK), 0) + MARK
    header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0)
    packet = header + socket.inet_aton(source) + socket.inet_aton(address) + udp
    sock = where.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
    sock.sendto(packet, (address, 0))
    return sock


def echo(kind: int) -> bytes:
    """An ICMP echo request. For IPv6 the kernel fills in the checksum."""
    packet = struct.pack("!BBHHH", kind, 0, 0, 7, 7) + MARK
    return packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]


def unreachable(about: bytes) -> bytes:
    """An ICMP error: the port of this packet cannot be reached."""
    packet = struct.pack("!BBHI", *UNREACHABLE, 0, 0) + about
    return packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]


def answer(source: str, to: str, port: int, to_port: int) -> bytes:
    """The headers of a TCP packet, as an ICMP error quotes them."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0)
    return header + socket.inet_aton(source) + socket.inet_aton(to) + struct.pack("!HHIIHHHH", port, to_port, *[0] * 6)


def checksum(packet: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    padded = packet + b"\0" * (len(packet) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
