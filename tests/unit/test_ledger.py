"""The ledger: quotas of queues, task functions and keys together, and what was used of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.quotas import Quota, Rate, Scope
from scheduler_service.fleet.lanes import Lane
from scheduler_service.fleet.quotas import UNLIMITED, Ledger
from tests.support.fleet import of

NOW = 1000.0
LANE = of("q", "anna", task="add")
NAMES = {Scope.QUEUE: "q", Scope.TASK: "add", Scope.KEY: "anna"}


def with_quotas(**quotas: dict[str, Any]) -> Ledger:
    """A ledger with quotas for the three scopes of `LANE`."""
    ledger = Ledger()
    for scope, what in quotas.items():
        ledger.set(Quota(scope=Scope(scope), name=NAMES[Scope(scope)], **what))
    return ledger


def go(ledger: Ledger, wanted: int, now: float = NOW) -> int:
    count = min(wanted, ledger.allowed(LANE, now))
    ledger.take(LANE, count)
    ledger.sent(LANE, count, now)
    return count


def test_what_nobody_limits_may_go() -> None:
    assert Ledger().allowed(LANE, NOW) == UNLIMITED


@pytest.mark.parametrize("least", list(Scope))
@pytest.mark.parametrize("kind", ["rate", "concurrency"])
def test_the_least_of_all_quotas_wins(least: Scope, kind: str) -> None:
    counts = {scope: 3 if scope is least else 7 for scope in Scope}
    what = {scope.value: {kind: Rate(n, 1.0) if kind == "rate" else n} for scope, n in counts.items()}
    assert go(with_quotas(**what), 9) == 3


def test_what_is_charged_is_what_is_released() -> None:
    """Whatever comes under the number of a lane: else a key that was charged for it would never be free again."""
    ledger = with_quotas(key={"concurrency": 1})
    other = Lane(LANE.number, "q", LANE.priority, "add", "bert")
    ledger.take(other, 1)
    ledger.take(LANE, 1)
    ledger.sent(other, 1, NOW)
    ledger.sent(LANE, 1, NOW)
    ledger.adopt(LANE)
    ledger.landed(LANE, 3)
    assert ledger.out(Scope.KEY, "anna") == 0
    assert ledger.allowed(LANE, NOW) == 1


@pytest.mark.parametrize("scope", list(Scope))
def test_a_pause_of_any_of_them_stops_it(scope: Scope) -> None:
    assert with_quotas(**{scope.value: {"paused": True}}).allowed(LANE, NOW) == 0


@pytest.mark.parametrize("scope", list(Scope))
def test_a_quota_is_about_no_other(scope: Scope) -> None:
    ledger = with_quotas(**{scope.value: {"paused": True}})
    assert ledger.allowed(of("r", "bert", task="sub"), NOW) == UNLIMITED


@pytest.mark.parametrize("scope", list(Scope))
def test_what_is_out_counts_from_when_a_quota_is_set(scope: Scope) -> None:
    ledger = Ledger()
    go(ledger, 4)
    ledger.set(Quota(scope=scope, name=NAMES[scope], concurrency=5))
    assert ledger.allowed(LANE, NOW) == 1
    assert ledger.out(scope, NAMES[scope]) == 4
    ledger.landed(LANE, 2)
    assert ledger.allowed(LANE, NOW) == 3


@pytest.mark.parametrize("scope", list(Scope))
def test_what_was_out_before_a_restart_counts(scope: Scope) -> None:
    ledger = with_quotas(**{scope.value: {"concurrency": 5}})
    ledger.adopt(LANE, 4)
    assert go(ledger, 9) == 1
    ledger.landed(LANE, 5)
    assert go(ledger, 9) == 5


@pytest.mark.parametrize("scope", list(Scope))
def test_what_went_before_a_restart_counts(scope: Scope) -> None:
    ledger = with_quotas(**{scope.value: {"rate": Rate(5, 10.0)}})
    for count, age in ((1, 12.0), (2, 7.0), (1, -3600.0)):  # the last: the wall clock was set back
        ledger.recall_used(scope, NAMES[scope], count, age, NOW)
    assert go(ledger, 9) == 2
    assert ledger.allowed(LANE, NOW + 2.9) == 0
    assert ledger.allowed(LANE, NOW + 3.1) == 2
    assert ledger.allowed(LANE, NOW + 10.1) == 5


def test_what_was_not_found_counts_no_more_and_what_is_in_doubt_counts_for_the_rate() -> None:
    ledger = with_quotas(queue={"rate": Rate(5, 1.0)}, key={"concurrency": 5})
    ledger.take(LANE, 5)
    assert ledger.allowed(LANE, NOW) == 0
    ledger.give_back(LANE, 3)
    assert ledger.allowed(LANE, NOW) == 3
    ledger.doubt(LANE, 2, NOW)
    assert ledger.allowed(LANE, NOW) == 3
    assert ledger.key_room("anna", NOW) == 5
    assert ledger.allowed(LANE, NOW + 1.0) == 5


def test_weights_and_ageing_are_those_of_the_quotas() -> None:
    ledger = with_quotas(queue={"weight": 3.0, "ageing": 60.0}, key={"weight": 2.0})
    assert (ledger.weight_of_queue("q"), ledger.weight_of_key("anna"), ledger.ageing("q")) == (3.0, 2.0, 60.0)
    assert (ledger.weight_of_queue("r"), ledger.weight_of_key("bert"), ledger.ageing("r")) == (1.0, 1.0, None)
    assert ledger.limits(LANE)
    assert not ledger.limits(of("q"))


def test_it_says_when_a_rate_lets_the_next_one_go() -> None:
    ledger = with_quotas(key={"rate": Rate(1, 10.0)})
    go(ledger, 1)
    assert ledger.take_freed(NOW, 9) == ["anna"]
    assert ledger.allowed(LANE, NOW) == 0
    assert ledger.next_free == NOW + 10.0
    assert ledger.take_freed(NOW + 9.9, 9) == []
    assert ledger.take_freed(NOW + 10.0, 9) == ["anna"]
    assert ledger.next_free is None


def test_limits_of_a_queue_and_a_key_may_let_something_go_at_the_same_moment() -> None:
    ledger = with_quotas(queue={"rate": Rate(1, 10.0)}, key={"rate": Rate(1, 10.0)})
    go(ledger, 1)
    assert (ledger.queue_room("q", NOW), ledger.key_room("anna", NOW)) == (0, 0)
    ledger.take_freed(NOW, 9)
    assert ledger.next_free == NOW + 10.0


def test_the_longest_span_is_what_the_store_is_asked_for() -> None:
    assert Ledger().longest_span == 0.0
    assert with_quotas(queue={"rate": Rate(5, 1.0)}, key={"rate": Rate(5, 3600.0)}).longest_span == 3600.0


class Dispatching(RuleBasedStateMachine):
    """Tasks of several lanes are planned, sent, given back, in doubt, landed; quotas change; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.now = NOW
        self.planned: list[tuple[Lane, int]] = []
        self.out: list[Lane] = []
        self.went: list[tuple[float, Lane]] = []
        self.since: dict[tuple[Scope, str], float] = {}

    lanes = st.builds(of, st.sampled_from("qr"), st.sampled_from(["", "anna"]), task=st.sampled_from(["add", "sub"]))

    @rule(lane=lanes, wanted=st.integers(1, 6))
    def plan(self, lane: Lane, wanted: int) -> None:
        count = min(wanted, self.ledger.allowed(lane, self.now))
        self.ledger.take(lane, count)
        self.planned.append((lane, count))

    @precondition(lambda self: self.planned)
    @rule(share=st.floats(0.0, 1.0), in_doubt=st.booleans())
    def settle(self, share: float, in_doubt: bool) -> None:
        lane, count = self.planned.pop(0)
        if in_doubt:
            self.ledger.doubt(lane, count, self.now)
            sent = count
        else:
            sent = int(count * share)
            self.ledger.sent(lane, sent, self.now)
            self.ledger.give_back(lane, count - sent)
            self.out += [lane] * sent
        self.went += [(self.now, lane)] * sent

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 50))
    def land(self, which: int) -> None:
        self.ledger.landed(self.out.pop(which % len(self.out)))

    @precondition(lambda self: not self.planned)  # what is planned already goes by what counted then
    @rule(scope=st.sampled_from(Scope), count=st.integers(1, 5), kind=st.sampled_from(["rate", "concurrency", "none"]))
    def limit(self, scope: Scope, count: int, kind: str) -> None:
        kinds: dict[str, dict[str, Any]] = {"rate": {"rate": Rate(count, 1.0)}, "concurrency": {"concurrency": count}}
        what = kinds.get(kind, {})
        name = NAMES[scope]
        before = self.ledger.quota(scope, name).rate
        self.ledger.set(Quota(scope=scope, name=name, **what))
        if before is None or before != what.get("rate"):
            self.since[scope, name] = self.now

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def no_rate_is_exceeded(self) -> None:
        for (scope, name), since in self.since.items():
            rate = self.ledger.quota(scope, name).rate
            if rate is not None:
                went = [at for at, lane in self.went if at > since and _of(lane, scope) == name]
                assert all(sum(other <= at < other + rate.per for other in went) <= rate.count for at in went[-9:])

    @invariant()
    def what_is_out_is_known(self) -> None:
        for scope, name in NAMES.items():
            planned = sum(count for lane, count in self.planned if _of(lane, scope) == name)
            out = sum(_of(lane, scope) == name for lane in self.out) + planned
            assert self.ledger.out(scope, name) == out
            most = self.ledger.quota(scope, name).concurrency
            if most is not None:
                room = {"queue": self.ledger.queue_room, "task": self.ledger.task_room, "key": self.ledger.key_room}
                assert room[scope.value](name, self.now) == max(0, most - out)


def _of(lane: Lane, scope: Scope) -> str:
    return {Scope.QUEUE: lane.queue, Scope.TASK: lane.task, Scope.KEY: lane.key}[scope]


TestDispatching = Dispatching.TestCase
TestDispatching.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
