"""The commands ``warren scheduler`` and ``warren migrate``."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from common import failpoints, logs
from common.garbage import settle
from common.lifecycle import run
from common.settings import load, redacted
from scheduler_service.settings import TABLE, SchedulerSettings

log = logging.getLogger(__name__)

_config = click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TOML file with settings."
)
_database = click.option("--database-url", help="Where tasks are stored, such as sqlite:///warren.db.")


def _settings(config: Path | None, **overrides: Any) -> SchedulerSettings:
    return load(SchedulerSettings, table=TABLE, environ=os.environ, file=config, overrides=overrides)


@click.command()
@_config
@_database
@click.option("--http-port", type=int, help="Port for metrics and health; the next free one when it is taken.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
def scheduler(config: Path | None, **overrides: Any) -> None:
    """Run the scheduler service."""
    settings = _settings(config, **overrides)
    logs.configure(settings.log_level, settings.log_format, "scheduler")
    failpoints.arm_from(os.environ)

    async def main() -> int:
        from scheduler_service.app import Scheduler

        service = Scheduler(settings)
        settle()
        return await service.run()

    log.info("starting", extra=redacted(settings))
    sys.exit(run(main))


@click.command()
@_config
@_database
def migrate(config: Path | None, **overrides: Any) -> None:
    """Bring the database's schema up to date (SQLite: done by the scheduler's start as well)."""
    from scheduler_service.storage.engine import open_engine
    from scheduler_service.storage.migrate import migrate as upgrade

    settings = _settings(config, **overrides)
    engine = open_engine(settings.database_url)
    try:
        click.echo(f"the schema is at revision {upgrade(engine)}")
    finally:
        engine.dispose()
