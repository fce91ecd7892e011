"""Makes sure that tests find a broker on this machine; what `make test` calls. Does nothing when there is one."""

import os
import sys

from deploy.local.apt import can_install, install
from deploy.local.container import docker_runs
from deploy.local.control import BrokerError
from deploy.local.installation import find_installation


def main() -> int:
    """Make sure that tests find a broker; return the exit code."""
    if os.environ.get("WARREN_TEST_AMQP_URL") or find_installation() is not None:
        return 0
    try:
        if not can_install() and docker_runs():
            return 0
        sys.stderr.write("Installing rabbitmq-server (its system service is not started)...\n")
        install()
    except BrokerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
