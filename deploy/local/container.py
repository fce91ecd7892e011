"""A broker in a container: the image of the compose file, with a password of its own, gone at the end."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence

from deploy.local import interrupts
from deploy.local.control import BrokerError

IMAGE = "rabbitmq:4.3-management"
_USER = "warren"


def docker_runs() -> bool:
    """Whether a Docker engine answers."""
    if shutil.which("docker") is None:
        return False
    try:
        return bool(_docker("info", "--format", "{{.ServerVersion}}", timeout=10).strip())
    except BrokerError:
        return False


@contextlib.contextmanager
def docker_broker(timeout: float = 120.0) -> Iterator[str]:
    """Run RabbitMQ in a container on a free port of 127.0.0.1; yield its AMQP URL; remove it at the end.

    Args:
        timeout: seconds for the broker to accept AMQP connections once the image is there.
    Raises:
        BrokerError: the image cannot be had, or the broker does not come up; with the end of its log.
    """
    name = f"warren-broker-{secrets.token_hex(4)}"
    password = secrets.token_urlsafe(24)
    # `-e NAME` without a value takes it from our environment: the password appears in no process list.
    login = {"RABBITMQ_DEFAULT_USER": _USER, "RABBITMQ_DEFAULT_PASS": password}
    options = ["--detach", "--name", name, "--hostname", "warren", "--publish", "127.0.0.1::5672"]
    if not _docker("image", "ls", "--quiet", IMAGE):
        _docker("pull", IMAGE, timeout=900)
    with contextlib.ExitStack() as stack:
        with interrupts.held():
            stack.callback(_remove, name)
            _docker("run", *options, *(f"--env={key}" for key in login), IMAGE, environment=login)
        port = int(_docker("port", name, "5672/tcp").split()[0].rpartition(":")[2])
        _await_amqp(name, port, time.monotonic() + timeout)
        yield f"amqp://{_USER}:{password}@127.0.0.1:{port}/%2F"


def speaks_amqp(host: str, port: int, timeout: float = 2.0) -> bool:
    """Whether a broker greets there with Connection.Start; Docker's own proxy accepts long before the broker does."""
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


def _remove(name: str) -> None:
    """Remove a container; one that was never made is no fault."""
    if _docker("container", "ls", "--all", "--quiet", "--filter", f"name={name}"):
        _docker("rm", "--force", "--volumes", name)


def _await_amqp(name: str, port: int, deadline: float) -> None:
    while not speaks_amqp("127.0.0.1", port):
        alive = _docker("inspect", "--format", "{{.State.Running}}", name).strip() == "true"
        if not alive or time.monotonic() > deadline:
            log = _docker("logs", "--tail", "30", name)
            raise BrokerError(f"the broker's container {'is not ready' if alive else 'died'}; its log ends:\n{log}")
        time.sleep(0.2)


def _docker(*arguments: str, environment: dict[str, str] | None = None, timeout: float = 60.0) -> str:
    """Run one docker command and return what it prints.

    Raises:
        BrokerError: it failed or took longer than `timeout` seconds.
    """
    command: Sequence[str] = ["docker", *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - arguments are our own
            command,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            start_new_session=True,  # Ctrl-C in the terminal must not end the removal of a container
        )
    except subprocess.TimeoutExpired as error:
        raise BrokerError(f"docker {arguments[0]} did not answer within {timeout:g} s") from error
    if done.returncode != 0:
        raise BrokerError(f"docker {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout + (done.stderr if arguments[0] == "logs" else "")
