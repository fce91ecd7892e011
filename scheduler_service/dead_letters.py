"""Dead letters: lists, shows, replays and purges failed tasks and parked messages for their owners and operators."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from common.errors import WireError
from common.failpoints import reached
from common.questions import Dead, DeadLetters, DeadVerb
from common.wire import Message, decode
from scheduler_service import operations
from scheduler_service.asking import PATIENCE, Asker
from scheduler_service.fleet.lanes import Lane, lane_of_new
from scheduler_service.operations import LaneNumber
from scheduler_service.storage.store import Store

SHOWN_BYTES: Final = 4 * 1024 * 1024
"""Payloads in one answer, about."""
_CHANGING: Final = (DeadVerb.REPLAY, DeadVerb.PURGE)
_PLACE: Final = re.compile(r"[tp]\d{1,18}|p")


class DeadLetterOffice:
    """Answers `Dead`.

    Args:
        store: where they are.
        queued: told how many tasks of which lane were queued by a replay, and when.
        lane_number: numbers lanes; called by the store's thread.
        doubt: called when a transaction may or may not have been committed.
    """

    def __init__(
        self,
        store: Store,
        *,
        queued: Callable[[Lane, int, float], None],
        lane_number: LaneNumber,
        doubt: Callable[[], None],
    ) -> None:
        self._store = store
        self._queued = queued
        self._lane_number = lane_number
        self._doubt = doubt

    async def answer(self, asker: Asker, body: bytes) -> Message:
        """Do what is asked with a page of dead letters; it may be short, even empty, and yet not be the last."""
        ask = decode(Dead, body)
        if ask.after is not None and not _PLACE.fullmatch(ask.after):
            raise WireError(f"after: {ask.after[:50]!r} is not the `next` of a page")
        if ask.verb in _CHANGING and ask.after is None and ask.where.ids is None and ask.parked is None:
            # Every question may come twice, this one also when its caller is long done, and what fails after it
            # (replays, too) is not meant. So the first answer is only a place, which the next questions repeat.
            return DeadLetters([], f"t{await self._store.run(operations.beyond)}")
        answer = DeadLetters([], ask.after)
        deadline = time.monotonic() + PATIENCE
        size = 0
        while True:
            try:
                await reached("dead_letters.before_commit")
                page = await self._store.run(
                    operations.dead_page,
                    ask,
                    asker.owner,
                    answer.next,
                    ask.limit - len(answer.letters),
                    self._lane_number,
                    time.time(),
                )
                await reached("dead_letters.after_commit")
            except BaseException:
                if ask.verb is DeadVerb.REPLAY:
                    self._doubt()
                raise
            for lane, count in Counter(lane_of_new(task) for task in page.queued).items():
                self._queued(lane, count, time.time())
            answer.letters += page.letters
            answer.next = page.next
            size += sum(len(letter.payload) for letter in page.letters)
            full = len(answer.letters) >= ask.limit or size > SHOWN_BYTES
            if page.next is None or full or time.monotonic() > deadline:
                return answer
