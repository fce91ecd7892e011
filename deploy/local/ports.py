"""Free TCP ports that stay free for us while the broker behind them is down."""

import random
import socket

# Below Linux's range of ephemeral ports (32768 up): while a killed broker is away, a client that keeps dialling a
# port of that range may be given the very same port as its own and connect to itself.
_LOWEST, _HIGHEST = 20_000, 32_000
_SPREAD = random.SystemRandom()  # a test may have seeded the common generator: every process would draw the same


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port on `host` that nothing listens on now.

    Raises:
        OSError: no free port was found in 200 attempts.
    """
    for _ in range(200):
        port = _SPREAD.randrange(_LOWEST, _HIGHEST)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free TCP port on {host} between {_LOWEST} and {_HIGHEST}")
