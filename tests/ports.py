"""Ports for servers that are told theirs: none is given twice in a run, and no connection takes one by chance."""

import itertools
import os
import socket

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_FIRST, _EACH = 20_000, 1_500  # below the ports that systems give to connections (Linux: from 32,768)
_numbers = itertools.cycle(range(_EACH))


def free_port() -> int:
    """Return a TCP port that nobody listens on now, and that has not been given lately."""
    for number in itertools.islice(_numbers, _EACH):
        port = _FIRST + _WORKER * _EACH + (number + os.getpid()) % _EACH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("every port of this worker is taken")
