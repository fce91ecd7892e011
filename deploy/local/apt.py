"""Installs RabbitMQ where that can be done without asking: Debian or Ubuntu, as root or with passwordless sudo.

python -m deploy.local.install      # what `make test` calls: does nothing when a broker is there already
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.local import interrupts
from deploy.local.control import BrokerError
from deploy.local.installation import find_installation

_SCRIPT = Path(__file__).with_name("install-rabbitmq.sh")
ADVICE = (
    "No broker found: install RabbitMQ (on Debian or Ubuntu: sudo apt-get install rabbitmq-server), "
    "or start Docker, or set WARREN_AMQP_URL to a broker of yours."
)


def privileges() -> list[str] | None:
    """Return what to put before a command so that it runs as root without a question, or None."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None:
        return None
    allowed = subprocess.run([sudo, "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True)  # noqa: S603 - fixed
    return [sudo, "-n"] if allowed.returncode == 0 else None


def can_install() -> bool:
    """Whether `install()` may try: apt is here and we may become root."""
    return shutil.which("apt-get") is not None and privileges() is not None


def install() -> None:
    """Install Debian's `rabbitmq-server`; its system service is not started, now or at the next boot.

    Raises:
        BrokerError: we may not, or apt failed (its output is on stderr).
    """
    prefix = privileges()
    if prefix is None or shutil.which("apt-get") is None:
        raise BrokerError(ADVICE)
    with interrupts.held():  # Ctrl-C reaches the script as well; killed outright, it could not put back what it changed
        done = subprocess.run([*prefix, "/bin/sh", str(_SCRIPT)], stdin=subprocess.DEVNULL, stdout=sys.stderr)  # noqa: S603
    if done.returncode != 0 or find_installation() is None:
        raise BrokerError(f"apt could not install rabbitmq-server (exit {done.returncode}). {ADVICE}")
