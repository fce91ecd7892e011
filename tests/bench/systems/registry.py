"""Every system by its name, in the order of the report."""

from tests.bench.systems import System
from tests.bench.systems.bare import Bare
from tests.bench.systems.celery import Celery
from tests.bench.systems.dramatiq import Dramatiq
from tests.bench.systems.taskiq import Taskiq
from tests.bench.systems.warren import Warren

SYSTEMS: dict[str, System] = {
    system.name: system for system in (Warren(), Warren(commit_delay=0.005), Celery(), Dramatiq(), Taskiq(), Bare())
}
