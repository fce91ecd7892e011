"""``warren worker``: run task functions."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from common import failpoints, lifecycle, logs
from common.administration import OPERATED
from common.beside import Beside
from common.garbage import settle
from common.leaving import leave_within
from common.settings import load as load_settings
from common.settings import redacted
from worker_service.app import Worker
from worker_service.loader import load
from worker_service.settings import WorkerSettings

_log = logging.getLogger(__name__)


@click.command("worker", short_help="Run task functions, or have running workers do something.")
@click.argument("modules", nargs=-1)
@click.option("--module", "named", multiple=True, metavar="NAME", help="One more, also one named as a command below.")
@click.option("--queues", metavar="NAMES", help="The queues to serve, separated by commas.  [default: default]")
@click.option("--labels", metavar="NAMES", help="What this worker has, such as gpu, separated by commas.")
@click.option("--slots", type=int, help="How many tasks run at a time.  [default: 50]")
@click.option("--name", help="Shown in this worker's id in place of the host's name.")
@click.option("--http-port", type=int, help="Port of metrics and health, or the next free one.  [default: 9465]")
@click.option("--log-level", help="debug, info, warning or error.  [default: info]")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings.")
def run(
    modules: tuple[str, ...],
    named: tuple[str, ...],
    queues: str | None,
    labels: str | None,
    config: Path | None,
    **options: Any,
) -> None:
    """Run the task functions in MODULES, import names such as `myapp.tasks`.

    A first word that is one of the commands below is for workers that run already.

    SIGTERM finishes what runs and exits; a second one stops at once. All other settings come from the environment
    (WARREN_AMQP_URL, ...) and from the configuration file.
    """
    overrides = {
        "modules": [*modules, *named] or None,
        "queues": _names(queues),
        "labels": _names(labels),
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
        code = await service.run()
        leave_within(code)  # the user's code may have left threads and processes
        return code

    sys.exit(lifecycle.run(main))


def _verbs() -> Mapping[str, click.Command]:
    from common.client.cli.commanding import verbs  # a client, which a worker does not need

    return verbs


worker = Beside(run, OPERATED, _verbs)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
