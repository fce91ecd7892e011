"""When a task runs far beyond its usual time."""

from hypothesis import given
from hypothesis import strategies as st

from common.telemetry import Telemetry
from worker_service.events import Completed
from worker_service.watchdog import RUNS, UsualTimes, Watchdog


async def nothing(attempts: object) -> dict[object, list[str]]:
    return {}


def watchdog(telemetry: Telemetry) -> Watchdog:
    return Watchdog(list, nothing, factor=10.0, after=60.0, telemetry=telemetry)  # type: ignore[arg-type]


def test_the_limit_is_ten_times_the_usual_and_a_minute_at_least() -> None:
    telemetry = Telemetry()
    dog = watchdog(telemetry)
    telemetry.emit(Completed("default", "quick", "succeeded", [0.1, 0.2]))
    telemetry.emit(Completed("default", "slow", "succeeded", [20.0] * 94 + [30.0] * 6))
    assert dog.limit("quick") == 60.0
    assert dog.limit("slow") == 300.0


def test_without_a_run_that_succeeded_nothing_is_usual() -> None:
    telemetry = Telemetry()
    dog = watchdog(telemetry)
    telemetry.emit(Completed("default", "fails", "failed", [0.1]))
    assert dog.limit("fails") == dog.limit("new") == 600.0


def test_the_last_runs_count() -> None:
    times = UsualTimes()
    times.ran("f", [100.0] * 1000)
    times.ran("f", [1.0] * RUNS)
    assert times.usual("f") == 1.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=RUNS))
def test_ninety_five_of_a_hundred_are_not_above_it(runs: list[float]) -> None:
    times = UsualTimes()
    times.ran("f", runs)
    usual = times.usual("f")
    assert usual in runs
    assert sum(run <= usual for run in runs) >= 0.95 * len(runs)
    assert sum(run < usual for run in runs) < 0.95 * len(runs)
