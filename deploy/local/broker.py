"""Keeps a broker in the foreground until Ctrl-C: `make broker`, or `python -m deploy.local.broker --print-url`."""

import contextlib
import sys
import time

import click

from deploy.local import interrupts
from deploy.local.control import BrokerError
from deploy.local.find import Broker, find_broker


def _wait(broker: Broker) -> None:
    while broker.node is None or broker.node.running:
        time.sleep(0.5)
    raise BrokerError("the node has ended by itself")


@click.command()
@click.option("--print-url", is_flag=True, help="Print the bare AMQP URL on stdout, for scripts.")
def main(print_url: bool) -> None:
    """Run a broker of your own until Ctrl-C."""

    def work(stack: contextlib.ExitStack) -> int:
        broker = stack.enter_context(find_broker(url=""))
        click.echo(broker.url if print_url else f"WARREN_AMQP_URL={broker.url}")
        click.echo(f"{broker.origin[0].upper()}{broker.origin[1:]} runs until Ctrl-C.", err=True)
        _wait(broker)
        return 0

    try:
        sys.exit(interrupts.run(work))
    except interrupts.Interrupted as interrupted:
        click.echo("Stopped.", err=True)
        sys.exit(interrupted.exit_code)
    except BrokerError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
