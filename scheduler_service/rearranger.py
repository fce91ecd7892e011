"""Rearranger: moves tasks that wait to another queue, or to another priority."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from common.administration import Change, Rearrange, Rearranged
from common.failpoints import reached
from common.wire import MAX_PACK_ITEMS, Message, decode
from scheduler_service import operations
from scheduler_service.asking import PATIENCE, Asker
from scheduler_service.operations.rearranging import LaneNumber
from scheduler_service.storage.moves import Moved
from scheduler_service.storage.store import Store


class Rearranger:
    """Answers `Rearrange`.

    Args:
        store: where tasks are.
        lane_number: numbers lanes.
        admits: whether a queue is known or may be made.
        moved: given what was moved, after it was committed.
        announce: tells what was changed.
        doubt: called when a transaction may or may not have been committed.
    """

    def __init__(
        self,
        store: Store,
        *,
        lane_number: LaneNumber,
        admits: Callable[[str], bool],
        moved: Callable[[Sequence[Moved]], None],
        announce: Callable[[Change], None],
        doubt: Callable[[], None],
    ) -> None:
        self._store = store
        self._lane_number = lane_number
        self._admits = admits
        self._moved = moved
        self._announce = announce
        self._doubt = doubt

    async def answer(self, asker: Asker, body: bytes) -> Message:
        """Move a page of tasks; it may be short, even empty, and yet not be the last."""
        ask = decode(Rearrange, body)
        if ask.queue is None and ask.priority is None:
            return Rearranged(error="say which queue they are to be in, or which priority they are to have")
        if ask.queue is not None and not self._admits(ask.queue):
            return Rearranged(error=f"there is no queue {ask.queue!r}, and no room for one more (`max_queues`)")
        owner = None if asker.administrator else asker.user
        answer = Rearranged(next=ask.after)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                await reached("rearranger.before_commit")
                page = await self._store.run(
                    operations.rearrange,
                    ask.where,
                    owner,
                    ask.queue,
                    ask.priority,
                    answer.next,
                    MAX_PACK_ITEMS - len(answer.ids),
                    self._lane_number,
                    asker.user,
                    time.time(),
                )
                await reached("rearranger.after_commit")
            except BaseException:
                self._doubt()
                raise
            self._moved(page.moved)
            if page.change is not None:
                self._announce(page.change)
            answer.ids += page.ids
            answer.next = page.next
            if page.next is None or len(answer.ids) >= MAX_PACK_ITEMS or time.monotonic() > deadline:
                return answer
