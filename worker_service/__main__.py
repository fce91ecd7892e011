"""``python -m worker_service``: the same as ``warren worker``."""

import sys

from common.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "worker")
    main()
