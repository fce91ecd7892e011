"""What the scheduler's events become when they are scraped."""

import msgspec
import pytest

from common.telemetry import Telemetry
from scheduler_service import events
from scheduler_service.metrics import SchedulerMetrics

DONE = events.Finished("mail", "send", "succeeded", [0.5, 1.5], [2.0, 4.0])
NOT_RUN = events.Finished("mail", "send", "failed", [0.0], [8.0])
MAIL = {"queue": "mail"}
SEND = MAIL | {"task": "send"}


@pytest.mark.parametrize(
    ("event", "samples"),
    [
        (events.Submitted(3, {"mail": 2, "web": 1}, 4), {"tasks_submitted_total": (MAIL, 2)}),
        (events.Submitted(3, {"mail": 2}, 4), {"tasks_resubmitted_total": ({}, 4), "intake_batch_tasks_sum": ({}, 3)}),
        (
            events.Dispatched("mail", 2, 1, [0.5, 1.5]),
            {
                "tasks_dispatched_total": (MAIL, 2),
                "bundle_tasks_sum": ({}, 2),
                "bundle_tasks_count": ({}, 1),
                "task_queue_wait_seconds_sum": (MAIL, 2.0),
                "task_queue_wait_seconds_count": (MAIL, 2),
            },
        ),
        (
            events.Replied(5, [DONE, NOT_RUN], 2),
            {
                "reply_batch_tasks_sum": ({}, 5),
                "replies_stale_total": ({}, 2),
                "task_run_seconds_sum": (SEND, 2.0),
                "task_run_seconds_count": (SEND, 2),
                "task_total_seconds_sum": (MAIL, 14.0),
                "task_total_seconds_count": (MAIL, 3),
                "tasks_completed_total": (SEND | {"status": "succeeded"}, 2),
            },
        ),
        (events.Replied(5, [NOT_RUN], 2), {"tasks_completed_total": (SEND | {"status": "failed"}, 1)}),
        (events.Ended([NOT_RUN]), {"tasks_completed_total": (SEND | {"status": "failed"}, 1)}),
        (events.Returned("mail", "drain", 3), {"tasks_returned_total": (MAIL | {"reason": "drain"}, 3)}),
        (events.Returned("mail", "redelivered", 3), {"redelivered_total": (MAIL, 3)}),
        (events.Held("mail", 3), {"tasks_held_total": (MAIL, 3)}),
        (events.Lost("mail", 3, 2), {"tasks_lost_total": (MAIL, 3), "suspects_total": (MAIL, 2)}),
        (events.Parked("submit", "too_large", 3), {"parked_total": ({"origin": "submit", "reason": "too_large"}, 3)}),
        (events.Told(3, 2), {"told_total": ({}, 3), "told_unroutable_total": ({}, 2)}),
        (events.Pruned(3, 2), {"tasks_pruned_total": ({}, 3), "parked_pruned_total": ({}, 2)}),
        (events.BeatUnreadable(), {"beats_unreadable_total": ({}, 1)}),
        (events.StoreFailed("full"), {"store_failed_total": ({}, 1)}),
        (
            events.StoreCommitted(2, 0.5, 0.25),
            {"store_commit_seconds_sum": ({}, 0.25), "store_commit_seconds_count": ({}, 1)},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, msgspec.Struct) else "",
)
def test_each_event_is_counted_as_it_says(
    event: msgspec.Struct, samples: dict[str, tuple[dict[str, str], float]]
) -> None:
    telemetry = Telemetry()
    registry = SchedulerMetrics(telemetry).registry
    telemetry.emit(event)
    found = {name: registry.get_sample_value(f"warren_{name}", labels) for name, (labels, _) in samples.items()}
    assert found == {name: value for name, (_, value) in samples.items()}


def test_names_that_no_worker_has_said_use_up_no_labels() -> None:
    telemetry = Telemetry()
    registry = SchedulerMetrics(telemetry, named=lambda task: task == "send").registry
    telemetry.emit(
        events.Ended([events.Finished("mail", f"made-up-{n}", "expired", [0.0], [1.0]) for n in range(1000)])
    )
    telemetry.emit(events.Replied(2, [DONE], 0))
    labels = {"queue": "mail", "status": "succeeded"}
    assert registry.get_sample_value("warren_tasks_completed_total", labels | {"task": "send"}) == 2
    labels = {"queue": "mail", "status": "expired"}
    assert registry.get_sample_value("warren_tasks_completed_total", labels | {"task": "other"}) == 1000


def test_failed_attempts_are_counted_by_reason_and_by_what_follows() -> None:
    telemetry = Telemetry()
    registry = SchedulerMetrics(telemetry).registry
    telemetry.emit(events.AttemptsFailed("email", "timeout", True, 3))
    telemetry.emit(events.AttemptsFailed("email", "timeout", False, 1))
    labels = {"queue": "email", "kind": "timeout"}
    assert registry.get_sample_value("warren_attempts_failed_total", labels | {"then": "retried"}) == 3
    assert registry.get_sample_value("warren_attempts_failed_total", labels | {"then": "failed"}) == 1


def test_how_late_tasks_became_due_is_measured() -> None:
    telemetry = Telemetry()
    registry = SchedulerMetrics(telemetry).registry
    telemetry.emit(events.Ripened([0.002, 0.2]))
    assert registry.get_sample_value("warren_due_late_seconds_bucket", {"le": "0.1"}) == 1
    assert registry.get_sample_value("warren_due_late_seconds_count") == 2
