"""``python -m worker_service MODULE...``, the same as ``warren worker``."""

from __future__ import annotations

import sys

import click

from common.errors import SettingsError, WarrenError
from common.lifecycle import EXIT_FAILED, EXIT_SETTINGS
from worker_service.cli import worker

if __name__ == "__main__":
    try:
        worker(prog_name="python -m worker_service")
    except WarrenError as error:
        click.echo(f"worker: {error}", err=True)
        sys.exit(EXIT_SETTINGS if isinstance(error, SettingsError) else EXIT_FAILED)
