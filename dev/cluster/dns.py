"""One question to a name server, to see whether the cluster's DNS really answers."""

from __future__ import annotations

import secrets
import socket
import struct

ADDRESS_RECORD, INTERNET = 1, 1
HEADER = struct.Struct("!6H")
RECURSION_DESIRED = 0x0100


def build_query(identifier: int, name: str) -> bytes:
    """Build a question for the IPv4 address of a name."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    header = HEADER.pack(identifier, RECURSION_DESIRED, 1, 0, 0, 0)
    return header + labels + b"\0" + struct.pack("!2H", ADDRESS_RECORD, INTERNET)


def find_address(answer: bytes, identifier: int, address: str) -> bool:
    """Whether the answer belongs to the question and holds the address."""
    if len(answer) < HEADER.size:
        return False
    found, flags, _, count, _, _ = HEADER.unpack_from(answer)
    has_failed = flags & 0x000F != 0
    return found == identifier and count > 0 and not has_failed and socket.inet_aton(address) in answer


def resolves(server: str, name: str, address: str, timeout: float = 0.5) -> bool:
    """Whether a name server answers that a name has an address."""
    identifier = secrets.randbelow(2**16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(timeout)
        try:
            udp.sendto(build_query(identifier, name), (server, 53))
            answer = udp.recv(1024)
        except OSError:
            return False
    return find_address(answer, identifier, address)
