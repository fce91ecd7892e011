"""A worker that stood still notices it, and tells what was begun before from what was begun after."""

from worker_service.pauses import PauseDetector


class Bench:
    """A detector with two clocks: one goes on in a pause, and `steady` does too unless the machine is suspended."""

    def __init__(self) -> None:
        self.now = self.steady = 100.0
        self.woken: list[float] = []
        self.detector = PauseDetector(self.woken.append, limit=1.0, clock=lambda: self.now, steady=lambda: self.steady)

    def passes(self, seconds: float, *, suspended: bool = False) -> None:
        self.now += seconds
        self.steady += 0.0 if suspended else seconds


def test_looks_in_time_are_no_pause() -> None:
    bench = Bench()
    for _ in range(10):
        bench.passes(1.0)
        bench.detector.look()
    assert bench.woken == []
    assert not bench.detector.missed(100.0)


def test_a_gap_is_a_pause_and_is_told_once() -> None:
    bench = Bench()
    bench.passes(60.0)
    bench.detector.look()
    bench.detector.look()
    assert bench.woken == [60.0]


def test_a_thread_that_goes_on_before_anybody_has_looked_begins_nothing() -> None:
    bench = Bench()
    begun = bench.steady
    bench.passes(1.1)
    assert bench.detector.missed(begun)
    assert bench.woken == [], "that is for the event loop"


def test_what_was_begun_before_a_pause_stays_so_after_the_look() -> None:
    bench = Bench()
    before = bench.steady
    bench.passes(5.0)
    bench.detector.look()
    assert bench.detector.missed(before)
    assert not bench.detector.missed(bench.steady)
    bench.passes(0.5)
    assert bench.detector.missed(before)


def test_a_machine_that_is_suspended_stands_still_too() -> None:
    bench = Bench()
    before = bench.steady
    bench.passes(3600.0, suspended=True)
    assert bench.detector.missed(before)
    bench.detector.look()
    assert bench.woken == [3600.0]


def test_the_mark_is_set_before_others_are_told() -> None:
    seen: list[bool] = []
    now = [0.0]
    detector = PauseDetector(
        lambda seconds: seen.append(detector.missed(0.5)), limit=1.0, clock=lambda: now[0], steady=lambda: now[0]
    )
    now[0] = 2.0
    detector.look()
    assert seen == [True]


def test_a_cut_is_like_a_pause_without_a_gap() -> None:
    bench = Bench()
    before = bench.steady
    bench.passes(0.1)
    bench.detector.away()
    assert bench.detector.missed(before)
    assert not bench.detector.missed(bench.steady)
    assert bench.woken == []


def test_the_time_before_it_begins_does_not_count() -> None:
    bench = Bench()
    bench.passes(30.0)
    bench.detector.begin()
    bench.detector.look()
    assert bench.woken == []
