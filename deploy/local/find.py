"""Finds a broker for the demo and the tests: the one rule of the README, in its order.

1. `WARREN_AMQP_URL`, if set. 2. A `rabbitmq-server` on this machine: a private node of it. 3. A running Docker engine:
the compose file's broker. 4. Debian or Ubuntu, as root or with passwordless sudo: installed with apt, then as 2.
5. Otherwise one sentence on what to do.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deploy.local import interrupts
from deploy.local.apt import ADVICE, can_install, install
from deploy.local.container import IMAGE, docker_broker, docker_runs
from deploy.local.control import BrokerError
from deploy.local.installation import find_installation
from deploy.local.node import RabbitNode


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker to work with.

    Args:
        url: its AMQP URL, with the password.
        origin: what it is, for people to read; holds no password.
        node: the private node, if it is one.
    """

    url: str
    origin: str
    node: RabbitNode | None = None


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")


@contextlib.contextmanager
def find_broker(
    *, url: str | None = None, say: Callable[[str], None] = _to_stderr, may_install: bool = True
) -> Iterator[Broker]:
    """Yield a broker by the rule above; one that was started here is stopped and removed at the end.

    Args:
        url: use this one; by default what `WARREN_AMQP_URL` says, and an empty text looks for none there.
        say: is told what takes long.
        may_install: whether step 4 is allowed.
    Raises:
        BrokerError: none can be had; the text says what to do.
    """
    given = os.environ.get("WARREN_AMQP_URL", "") if url is None else url
    if given:
        yield Broker(given, "the broker of WARREN_AMQP_URL")
        return
    if find_installation() is None:
        if docker_runs():
            say(f"Starting {IMAGE} in a container...")
            with docker_broker() as container_url:
                yield Broker(container_url, f"{IMAGE} in a container")
            return
        if not (may_install and can_install()):
            raise BrokerError(ADVICE)
        say("Installing rabbitmq-server with apt (its system service is not started)...")
        install()
    say("Starting a private RabbitMQ node...")
    with contextlib.ExitStack() as stack:
        with interrupts.held():
            node = stack.enter_context(contextlib.closing(RabbitNode()))
        node.start()
        yield Broker(node.url(), f"a private RabbitMQ {node.version} node on port {node.port}", node)
