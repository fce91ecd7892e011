"""The client's journal: which tasks were confirmed, what is expected of each, and what the client was told.

It is kept apart from what it judges: an id stands in it only once the client's confirm is there.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from common import Client, Handle, TaskFailed
from common.errors import SubmissionError
from common.ids import new_task_id
from common.tasks import Call
from tests.support.conditions import wait_until


class Expected(msgspec.Struct, frozen=True):
    """What one task has to end with.

    Attributes:
        key: the test's own name of the task, as in the effect log.
        value: the result of a success.
        error_kind: the kind of a failure; empty for a success.
    """

    key: int
    value: Any = None
    error_kind: str = ""


class Journal:
    """What a client knows; safe to be used by many threads.

    Attributes:
        confirmed: what is expected, by task id.
        told: what the client was told, by task id: the value, or the error's kind with a `!` before it.
    """

    def __init__(self) -> None:
        self.confirmed: dict[str, Expected] = {}
        self.told: dict[str, Any] = {}
        self._keys = 0
        self._lock = threading.Lock()

    def keys(self, count: int) -> range:
        """Return `count` keys that were never used."""
        with self._lock:
            self._keys += count
            return range(self._keys - count, self._keys)


class Load:
    """A stream of submissions in a thread of its own.

    Args:
        client: submits.
        journal: where confirms go.
        make: the call and the expected outcome of one key.
        count: how many tasks.
        chunk: how many go into one `submit_many`.
        window: how many may be unfinished at a time: a slow system is not buried, so a fault meets a flow.
        rate: how many a second at most.
        give_up: seconds until a submission without a confirm is a failure of the test.
    """

    def __init__(
        self,
        client: Client,
        journal: Journal,
        make: Callable[[int], tuple[Call[Any], Expected]],
        *,
        count: int,
        chunk: int = 20,
        window: int = 200,
        rate: float = math.inf,
        give_up: float = 90.0,
    ) -> None:
        self._client = client
        self._journal = journal
        self._make = make
        self._count = count
        self._chunk = chunk
        self._window = window
        self._rate = rate
        self._give_up = give_up
        self._failure: BaseException | None = None
        self._enough = threading.Event()
        self.handles: list[Handle[Any]] = []
        self._finished = 0
        self._unfinished: list[Handle[Any]] = []
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> "Load":
        """Begin to submit."""
        self._thread.start()
        return self

    @property
    def finished(self) -> int:
        """How many outcomes the client has been told."""
        with self._counting:
            known = self._finished + len(self._unfinished)
            looked_at = self._unfinished + self.handles[known:]
            self._unfinished = [handle for handle in looked_at if not handle.done()]
            self._finished += len(looked_at) - len(self._unfinished)
            return self._finished

    @property
    def confirmed(self) -> int:
        """How many tasks are confirmed."""
        return len(self.handles)

    def enough(self) -> None:
        """Submit no more: for a stream that has to flow for as long as a fault takes, however fast the machine."""
        self._enough.set()

    def await_more(self, more: int = 40, timeout: float = 40.0) -> None:
        """Return when this many more outcomes have come."""
        wanted = self.finished + more
        wait_until(lambda: self.finished >= wanted, timeout, f"{more} more outcomes", lambda: f"{self.finished} so far")

    def join(self, timeout: float = 60.0) -> None:
        """Wait for every confirm and every outcome, and write down what was told.

        Args:
            timeout: seconds from now until each outcome has to be there.

        Raises:
            AssertionError: a confirm or an outcome did not come.
        """
        deadline = time.monotonic() + timeout
        self.join_submissions(timeout)
        self._journal.told.update(outcomes(self.handles, deadline))

    def join_submissions(self, timeout: float = 60.0) -> None:
        """Wait for every confirm.

        Args:
            timeout: seconds from now.

        Raises:
            AssertionError: a confirm did not come.
        """
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"{self.confirmed} of {self._count} tasks are confirmed after {timeout:g} s"
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            for at in range(0, self._count, self._chunk):
                while self.confirmed - self.finished >= self._window and not self._enough.is_set():
                    time.sleep(0.005)
                if self._enough.wait(self._chunk / self._rate):
                    return
                made = [self._make(key) for key in self._journal.keys(min(self._chunk, self._count - at))]
                self.handles += self._submit([call.options(task_id=new_task_id()) for call, _ in made], made)
        except BaseException as error:  # the thread's boundary: `join` raises it
            self._failure = error

    def _submit(self, calls: Sequence[Call[Any]], made: Sequence[tuple[Call[Any], Expected]]) -> list[Handle[Any]]:
        handles = submit_until_confirmed(self._client, calls, self._give_up)
        for handle, (_, expected) in zip(handles, made, strict=True):
            self._journal.confirmed[handle.id] = expected
        return handles


def submit_until_confirmed(client: Client, calls: Sequence[Call[Any]], give_up: float) -> list[Handle[Any]]:
    """Submit calls that name their ids, again and again while the outcome is unknown: the same id is stored once.

    Args:
        client: submits.
        calls: each with its `task_id`.
        give_up: seconds until the last error is raised.
    """
    deadline = time.monotonic() + give_up
    while True:
        try:
            return client.submit_many(calls)
        except SubmissionError:
            if time.monotonic() > deadline:
                raise


def outcomes(handles: Iterable[Handle[Any]], deadline: float) -> dict[str, Any]:
    """Return what the client is told about each handle; waits until `deadline` (monotonic seconds).

    Raises:
        ResultTimeout: something was not told in time.
    """
    told: dict[str, Any] = {}
    for handle in handles:
        try:
            told[handle.id] = handle.result(timeout=max(0.001, deadline - time.monotonic()))
        except TaskFailed as error:
            told[handle.id] = f"!{error.kind}"
    return told
