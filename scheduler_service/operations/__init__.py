"""What the parts do to the store: each a plain function over a batch, run as one transaction.

They join the statements of `storage` with the rules of `common.states`, and know neither broker nor clock.
"""

from __future__ import annotations

from scheduler_service.operations.accepting import Accepted, AliasOf, accept, accept_carefully
from scheduler_service.operations.applying import (
    Applied,
    Ended,
    Finished,
    Outcomes,
    Report,
    apply,
    result_of,
    results_to_tell,
)
from scheduler_service.operations.asking import Found, look_up, result_pages, results_of, wait_for
from scheduler_service.operations.dead import DeadPage, dead_page
from scheduler_service.operations.limiting import (
    ChangedQuota,
    list_changes,
    list_quotas,
    record_change,
    set_quota,
)
from scheduler_service.operations.moving import (
    Claimed,
    Outset,
    Ripened,
    add_queue,
    claim,
    count_scheduled,
    count_unfinished,
    known_queues,
    oldest,
    outset,
    ripen,
    write_mark,
)
from scheduler_service.operations.pruning import Pruned, prune, prune_own
from scheduler_service.operations.rearranging import LaneNumber, RearrangedPage, rearrange
from scheduler_service.operations.searching import CancelledPage, cancel, leases_of, list_tasks
from scheduler_service.storage.functions import hear_functions, known_functions
from scheduler_service.storage.parked import park
from scheduler_service.storage.search import beyond
from scheduler_service.storage.tasks import queues_of

__all__ = [
    "Accepted",
    "AliasOf",
    "Applied",
    "CancelledPage",
    "ChangedQuota",
    "Claimed",
    "DeadPage",
    "Ended",
    "Finished",
    "Found",
    "LaneNumber",
    "Outcomes",
    "Outset",
    "Pruned",
    "RearrangedPage",
    "Report",
    "Ripened",
    "accept",
    "accept_carefully",
    "add_queue",
    "apply",
    "beyond",
    "cancel",
    "claim",
    "count_scheduled",
    "count_unfinished",
    "dead_page",
    "hear_functions",
    "known_functions",
    "known_queues",
    "leases_of",
    "list_changes",
    "list_quotas",
    "list_tasks",
    "look_up",
    "oldest",
    "outset",
    "park",
    "prune",
    "prune_own",
    "queues_of",
    "rearrange",
    "record_change",
    "result_of",
    "result_pages",
    "results_of",
    "results_to_tell",
    "ripen",
    "set_quota",
    "wait_for",
    "write_mark",
]
