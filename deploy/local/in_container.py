"""Runs a command on a broker in a container, whose URL it finds in WARREN_TEST_AMQP_URL; what `make test-docker` calls.

python -m deploy.local.in_container pytest tests/integration
"""

import os
import subprocess
import sys

from deploy.local.container import docker_broker
from deploy.local.control import BrokerError


def main() -> int:
    """Run a command on a broker in a container; return its exit code."""
    try:
        with docker_broker() as url:
            return subprocess.run(sys.argv[1:], env=os.environ | {"WARREN_TEST_AMQP_URL": url}).returncode  # noqa: S603
    except BrokerError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
