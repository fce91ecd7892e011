"""The commands of `warren` that are those of a client."""

from common.client.cli.cancelling import cancel
from common.client.cli.dead_letters import dead
from common.client.cli.listing import tasks
from common.client.cli.outcomes import result, status
from common.client.cli.submitting import submit
from common.client.cli.watching import watch

__all__ = ["cancel", "dead", "result", "status", "submit", "tasks", "watch"]
