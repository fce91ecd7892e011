"""python -m deploy.demo: the whole of Warren in half a minute, on this machine, with nothing left of it afterwards."""

import contextlib
import sys

import click

from common import WarrenError
from deploy.demo.errors import DemoError
from deploy.demo.scenario import Scenario
from deploy.demo.screen import Screen
from deploy.local import BrokerError, interrupts


@click.command()
@click.option(
    "--pace",
    type=click.FloatRange(min=0.0, max=600.0),
    default=6.0,
    show_default=True,
    help="Seconds that the job would take on two workers; 0 for as fast as it goes.",
)
def main(pace: float) -> None:
    """Count the words of Python's standard library on two workers, killing one half-way."""
    screen = Screen()

    def work(stack: contextlib.ExitStack) -> int:
        try:
            return Scenario(stack, screen, pace).run()
        except interrupts.Interrupted:
            with contextlib.suppress(OSError):  # the terminal may be what has gone
                screen.note("\nStopping everything that was started...")
            raise

    try:
        code = interrupts.run(work)
    except interrupts.Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
    except (DemoError, BrokerError, WarrenError) as error:
        screen.error(f"\n{error}")
        sys.exit(1)
    screen.note("\nEverything that was started is stopped and removed.")
    sys.exit(code)


if __name__ == "__main__":
    main()
