"""Ports for servers that tests start and that have to be named in advance."""

import itertools
import os
import random
import socket

FIRST_PORT, PORTS = 10_000, 500
"""Each test process has so many of its own: below those that the system gives to connections, and those that Plenum gives to runs."""

_process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 16
_next = itertools.count(random.randrange(PORTS))


def free_port() -> int:
    """Return a port of loopback on which nobody listens and which nobody else is told: it is still free when it is used."""
    for number in itertools.islice(_next, PORTS):
        port = FIRST_PORT + _process * PORTS + number % PORTS
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"all of the {PORTS} ports of this test process are taken")
