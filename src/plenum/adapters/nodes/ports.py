"""A port for a server that a node starts."""

from __future__ import annotations

import random
import socket
from collections.abc import Set

FIRST_PORT, PORTS = 30_000, 2_000
"""Where they are taken from: apart from those of gangs, and below those that the system gives to connections."""


def free_port(address: str, taken: Set[int]) -> int:
    """Return a port that nobody listens on at an address, and that nobody else here was given; 0: there is none.

    Notes
    -----
    Another program may take it before it is used; then the start fails, and the next attempt gets another.
    """
    start = random.randrange(PORTS)
    for i in range(PORTS):
        port = FIRST_PORT + (start + i) % PORTS
        if port not in taken and _is_free(address, port):
            return port
    return 0


def _is_free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError:
        return False
    return True
