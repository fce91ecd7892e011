"""The commands of `warren` that are those of a client."""

from common.client.cli.auditing import changes
from common.client.cli.cancelling import cancel
from common.client.cli.commanding import verbs
from common.client.cli.dead_letters import dead
from common.client.cli.limiting import limit, queue
from common.client.cli.listing import tasks
from common.client.cli.moving import move, purge, reprioritise
from common.client.cli.outcomes import result, status
from common.client.cli.overview import queues, show, workers
from common.client.cli.submitting import submit
from common.client.cli.watching import watch

__all__ = [
    "cancel",
    "changes",
    "dead",
    "limit",
    "move",
    "purge",
    "queue",
    "queues",
    "reprioritise",
    "result",
    "show",
    "status",
    "submit",
    "tasks",
    "verbs",
    "watch",
    "workers",
]
