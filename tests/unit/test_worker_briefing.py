"""Which dispatches were before a worker could hear, by their numbers."""

import asyncio

from worker_service.briefing import Briefing


def test_everything_was_before_until_it_is_told() -> None:
    briefing = Briefing()
    assert briefing.asking == "0"
    assert not briefing.complete
    assert briefing.precedes(10**12)


def test_what_has_a_lower_number_than_the_mark_was_before() -> None:
    briefing = Briefing()
    briefing.tell("0", 42)
    assert briefing.complete
    assert not briefing.asking
    assert not briefing.precedes(42)
    assert not briefing.precedes(43)
    assert briefing.precedes(41)


def test_one_that_was_before_is_asked_about_but_moves_no_mark_up() -> None:
    briefing = Briefing()
    briefing.tell("0", 42)
    assert briefing.precedes(41)
    assert (briefing.asking, briefing.complete) == ("0", True), "it asks, and goes on meanwhile"
    briefing.tell("0", 60)
    assert not briefing.asking
    assert not briefing.precedes(50)


def test_a_store_that_was_put_back_counts_from_where_it_was() -> None:
    briefing = Briefing()
    briefing.tell("0", 1_000_000)
    assert briefing.precedes(7)
    briefing.tell("0", 8)
    assert not briefing.precedes(8)


def test_it_begins_anew_with_each_absence() -> None:
    briefing = Briefing()
    briefing.tell("0", 42)
    briefing.begin()
    assert briefing.asking == "1"
    assert briefing.precedes(50)
    briefing.tell("1", 51)
    assert briefing.precedes(50)
    assert not briefing.precedes(51)


async def test_whoever_waits_goes_on_when_it_is_told() -> None:
    briefing = Briefing()
    waiting = asyncio.create_task(briefing.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    briefing.tell("0", 1)
    await waiting


def test_an_answer_to_a_question_of_before_a_pause_does_not_count() -> None:
    briefing = Briefing()
    briefing.begin()
    asked = briefing.asking
    briefing.begin()
    briefing.tell(asked, 42)
    assert not briefing.complete
    assert briefing.precedes(42)
