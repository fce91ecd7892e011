"""What stays in memory of tasks that nobody waits for: nothing."""

import gc
import sys
from typing import Any

from common.client.core import ClientCore
from common.client.handles import BaseHandle
from common.ids import new_task_id


def test_very_many_dropped_handles_leave_nothing() -> None:
    core = ClientCore(30)
    core.connected(0)

    def submit(count: int) -> None:
        handles = [BaseHandle[Any](new_task_id(), Any, foreign=False) for _ in range(count)]
        for handle in handles:
            core.claim(handle, 0, content=None)
        assert len(core.waiting) == count

    submit(10_000)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(20):
        submit(10_000)
    gc.collect()

    assert len(core.waiting) == 0
    assert sys.getallocatedblocks() - before < 1000
