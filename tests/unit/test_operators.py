"""Only operators change what all tasks share; commands are bounded and given once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import Raw

from common.administration import (
    Change,
    Command,
    CommandAnswers,
    ListQuotas,
    Quotas,
    Rearrange,
    Rearranged,
    SetQuota,
)
from common.errors import PublishRefused, PublishUnknown
from common.questions import Filter
from common.quotas import Quota, Scope
from common.topology import Topology
from common.wire import Beat, Control, ControlVerb, Message, WorkerAnswer, encode
from scheduler_service import commander, operations
from scheduler_service.asking import Asker
from scheduler_service.commander import Commander
from scheduler_service.fleet.directory import Directory
from scheduler_service.quota_keeper import QuotaKeeper
from scheduler_service.rearranger import Rearranger

OPERATOR = Asker("ops", "q", False, True)
ANYBODY = Asker("anna", "q")
TOKEN = "0123456789"


class Stored:
    """A store that gives what it is told, and remembers what it was asked."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    async def run(self, *call: Any) -> Any:
        self.calls.append(call)
        return self.answer


class Fleet:
    """A commander under a clock that stands, with what it has sent and written down."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.directory = Directory(15.0)
        self.sent: list[tuple[str, Control]] = []
        self.recorded: list[Change] = []
        self.faults: dict[str, Exception] = {}
        self.commander = Commander(
            self,  # type: ignore[arg-type]
            Topology("w"),
            self.directory,
            record=self.record,
            clock=lambda: self.now,
        )

    def hear(self, *names: str) -> None:
        for name in names:
            self.directory.hear(Beat(name, 1, ["default"], 5, [], []), self.now)

    async def publish(self, exchange: str, key: str, message: Control, **_: Any) -> None:
        if (fault := self.faults.get(key)) is not None:
            raise fault
        self.sent.append((key, message))

    async def record(self, change: Change) -> None:
        assert not self.sent, "it is written down before it is done"
        self.recorded.append(change)

    async def ask(self, asker: Asker = OPERATOR, token: str = TOKEN, **said: Any) -> CommandAnswers:
        command = Command(token, **({"verb": ControlVerb.PING} | said))
        answer: Message = await self.commander.answer(asker, encode(command))
        assert isinstance(answer, CommandAnswers)
        return answer

    def answer(self, worker: str, token: str = TOKEN, data: bytes = b"{}") -> None:
        self.commander.heard(WorkerAnswer(worker, token, Raw(data)))


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


class TestCommander:
    async def test_only_operators_command(self, fleet: Fleet) -> None:
        fleet.hear("w1")
        answer = await fleet.ask(ANYBODY)
        assert (answer.forbidden, answer.over, fleet.sent, fleet.recorded) == (True, True, [], [])

    async def test_it_is_given_once_and_told_until_all_have_answered(self, fleet: Fleet) -> None:
        fleet.hear("w1", "w2")
        assert (await fleet.ask()).missing == ["w1", "w2"]
        fleet.now += 0.5
        fleet.answer("w2")
        fleet.answer("w2")
        fleet.answer("w1", token="another-one")
        so_far = await fleet.ask()
        assert ([each.worker for each in so_far.answers], so_far.missing, so_far.over) == (["w2"], ["w1"], False)
        assert so_far.answers[0].after == 0.5
        fleet.answer("w1")
        assert (await fleet.ask()).over
        assert [key for key, _ in fleet.sent] == ["worker.w1", "worker.w2"]
        assert len(fleet.recorded) == 1

    async def test_it_is_over_at_the_deadline(self, fleet: Fleet) -> None:
        fleet.hear("w1")
        assert not (await fleet.ask(within=2.0)).over
        fleet.now += 2.0
        late = await fleet.ask(within=2.0)
        assert (late.over, late.missing) == (True, ["w1"])

    async def test_another_user_s_token_is_another_command(self, fleet: Fleet) -> None:
        fleet.hear("w1")
        await fleet.ask()
        fleet.answer("w1")
        fleet.sent.clear()
        assert (await fleet.ask(Asker("other", "q", True, True))).answers == []

    async def test_who_cannot_be_reached_is_missing_at_once_and_who_may_have_been_is_waited_for(
        self, fleet: Fleet
    ) -> None:
        fleet.hear("gone", "slow")
        fleet.faults = {
            "worker.gone": PublishRefused("no queue", unroutable=True),
            "worker.slow": PublishUnknown("no confirm"),
        }
        assert not (await fleet.ask()).over
        fleet.answer("slow")
        answer = await fleet.ask()
        assert ([each.worker for each in answer.answers], answer.missing, answer.over) == (["slow"], ["gone"], True)

    @pytest.mark.parametrize(
        ("said", "why"),
        [
            ({"verb": ControlVerb.CANCEL}, "cancel is what the scheduler says by itself"),
            ({"verb": ControlVerb.SLOTS}, "say how many slots"),
            ({"verb": ControlVerb.LOG_LEVEL, "level": "LOUD"}, "there is no log level 'LOUD'"),
            ({"workers": ["w2"]}, "no live worker's id begins with 'w2'"),
            ({"workers": [""]}, "no live worker's id begins with ''"),
        ],
    )
    async def test_what_cannot_be_done_is_not(self, fleet: Fleet, said: dict[str, Any], why: str) -> None:
        fleet.hear("w1")
        answer = await fleet.ask(**said)
        assert (answer.over, answer.forbidden, fleet.sent) == (True, False, [])
        assert answer.error.startswith(why)

    async def test_no_more_commands_are_remembered_than_that(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(commander, "COMMANDS", 3)
        fleet.hear("w1")
        for number in range(5):
            fleet.sent.clear()
            await fleet.ask(token=f"token-{number:04}")
        assert len(fleet.commander._given) == 3

    async def test_answers_are_bounded_in_bytes(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commander, "BYTES", 100)
        monkeypatch.setattr(commander, "AT_ONCE", 50)
        fleet.hear("w1", "w2", "w3")
        await fleet.ask()
        fleet.answer("w1", data=b'"' + b"x" * 60 + b'"')
        assert (await fleet.ask()).answers == [], "what is large is told once, at the end"
        fleet.answer("w2", data=b'"' + b"x" * 60 + b'"')
        fleet.answer("w3", data=b'"small"')
        answers = (await fleet.ask()).answers
        assert [(len(bytes(each.data)) > 10, each.error != "") for each in answers] == [
            (True, False),
            (False, True),
            (False, False),
        ]


class TestQuotas:
    def keeper(self, stored: Stored) -> tuple[QuotaKeeper, list[Quota], list[Change]]:
        effects: list[Quota] = []
        announced: list[Change] = []
        keeper = QuotaKeeper(
            stored,  # type: ignore[arg-type]
            effect=effects.append,
            announce=announced.append,
            knows=lambda queue: queue == "email",
        )
        return keeper, effects, announced

    async def test_only_operators_set_them(self) -> None:
        stored = Stored()
        keeper, effects, _ = self.keeper(stored)
        answer = await keeper.set_quota(ANYBODY, encode(SetQuota(Scope.QUEUE, "email", paused=True)))
        assert isinstance(answer, Quotas)
        assert (answer.forbidden, answer.quotas, stored.calls, effects) == (True, [], [], [])
        assert "only operators" in answer.error

    async def test_what_was_so_already_takes_effect_and_is_not_announced(self) -> None:
        quota = Quota(scope=Scope.QUEUE, name="email", paused=True)
        keeper, effects, announced = self.keeper(Stored(operations.ChangedQuota(quota, None)))
        answer = await keeper.set_quota(OPERATOR, encode(SetQuota(Scope.QUEUE, "email", paused=True)))
        assert isinstance(answer, Quotas)
        assert (answer.quotas, effects, announced) == ([quota], [quota], [])

    async def test_keys_may_name_customers_and_are_for_operators(self) -> None:
        quotas = [Quota(scope=scope, name="x") for scope in Scope]
        keeper, _, _ = self.keeper(Stored(quotas))
        seen = [await keeper.list_quotas(asker, encode(ListQuotas())) for asker in (OPERATOR, ANYBODY)]
        assert [len(answer.quotas) for answer in seen if isinstance(answer, Quotas)] == [3, 2]

    async def test_queues_that_nothing_names_are_told_apart(self) -> None:
        quotas = [Quota(scope=Scope.QUEUE, name="email"), *(Quota(scope=scope, name="emial") for scope in Scope)]
        keeper, effects, _ = self.keeper(Stored(quotas))
        answer = await keeper.list_quotas(OPERATOR, encode(ListQuotas()))
        assert isinstance(answer, Quotas)
        assert [quota.known for quota in answer.quotas] == [True, False, True, True]
        keeper, effects, _ = self.keeper(Stored(operations.ChangedQuota(quotas[1], None)))
        answer = await keeper.set_quota(OPERATOR, encode(SetQuota(Scope.QUEUE, "emial", paused=True)))
        assert isinstance(answer, Quotas)
        assert (answer.quotas[0].known, effects) == (False, [quotas[1]])


async def test_others_tasks_are_moved_by_operators_only() -> None:
    def moved(_: Sequence[Any]) -> None:
        return

    stored = Stored(operations.RearrangedPage([], None, [], None))
    rearranger = Rearranger(
        stored,  # type: ignore[arg-type]
        lane_number=lambda *_: 0,
        admits=lambda _: True,
        moved=moved,
        announce=lambda _: None,
        doubt=lambda: None,
    )
    for asker in (ANYBODY, OPERATOR):
        answer = await rearranger.answer(asker, encode(Rearrange(Filter(queue="a"), queue="b")))
        assert isinstance(answer, Rearranged)
    assert [call[2] for call in stored.calls] == ["anna", None], "whose tasks may be touched"
    nothing = await rearranger.answer(OPERATOR, encode(Rearrange(Filter(queue="a"))))
    assert isinstance(nothing, Rearranged)
    assert nothing.error.startswith("say which queue")
