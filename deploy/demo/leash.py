"""Runs a module that is killed as soon as the demo is gone, even when the demo could not clear up.

python -m deploy.demo.leash PARENT MODULE ARGUMENTS...      # PARENT: the demo's process id
"""

import runpy
import sys

from worker_service.runtimes.prctl import die_with_parent


def main() -> None:
    """Become `python -m MODULE ARGUMENTS...`."""
    _, parent, module, *arguments = sys.argv
    die_with_parent(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
