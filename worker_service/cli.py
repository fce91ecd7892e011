"""``warren worker``: run task functions."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from common import failpoints, lifecycle, logs
from common.garbage import settle
from common.settings import load as load_settings
from common.settings import redacted
from worker_service.app import Worker
from worker_service.loader import load
from worker_service.settings import WorkerSettings

_log = logging.getLogger(__name__)


@click.command()
@click.argument("modules", nargs=-1)
@click.option("--queues", metavar="NAMES", help="The queues to serve, separated by commas.  [default: default]")
@click.option("--slots", type=int, help="How many tasks run at a time.  [default: 50]")
@click.option("--name", help="Shown in this worker's id in place of the host's name.")
@click.option("--http-port", type=int, help="Port of metrics and health, or the next free one.  [default: 9465]")
@click.option("--log-level", help="debug, info, warning or error.  [default: info]")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings.")
def worker(modules: tuple[str, ...], queues: str | None, config: Path | None, **options: Any) -> None:
    """Run the task functions in MODULES, import names such as `myapp.tasks`.

    SIGTERM finishes what runs and exits; a second one stops at once. All other settings come from the environment
    (WARREN_AMQP_URL, ...) and from the configuration file.
    """
    overrides = {
        "modules": list(modules) or None,
        "queues": [name.strip() for name in queues.split(",") if name.strip()] if queues is not None else None,
        **options,
    }
    settings = load_settings(WorkerSettings, table="worker", environ=os.environ, file=config, overrides=overrides)
    logs.configure(settings.log_level, settings.log_format, "worker")
    failpoints.arm_from(os.environ)
    handlers = load(settings.modules)
    settle()

    async def main() -> int:
        service = Worker(settings, handlers)
        fields = {"worker": service.id, "functions": sorted(handlers), "failpoints": failpoints.armed()}
        _log.info("starting", extra={**fields, "settings": redacted(settings)})
        return await service.run()

    sys.exit(lifecycle.run(main))
