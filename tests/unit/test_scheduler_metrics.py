"""What the scheduler's events become when they are scraped."""

from common.telemetry import Telemetry
from scheduler_service import events
from scheduler_service.metrics import SchedulerMetrics


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
