"""``python -m scheduler_service``: the same as ``warren scheduler``."""

import sys

from common.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "scheduler")
    main()
