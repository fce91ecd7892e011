"""The job: one task a file, half of them done by one worker after the other was killed."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from common import Client, Handle, ResultTimeout, TaskError, call
from deploy.demo.errors import DemoError
from deploy.demo.tasks import watched_count

_LOOK: Final = 0.5  # seconds between two looks at the services while nothing happens
_PATIENCE: Final = 60.0  # seconds without any result after which the demo gives up


@dataclass(slots=True)
class Outcome:
    """What the client has seen of the job.

    Args:
        ids: the submitted tasks.
        totals: the counts of all results together.
        failures: of the tasks without a result, each with its reason.
        submit_seconds: until all tasks were confirmed by the broker.
        seconds: from the first submission to the last result.
    """

    ids: list[str]
    submit_seconds: float
    totals: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Job:
    """One run of the job.

    Args:
        client: a client.
        files: the input.
        journal: where each run of the task function leaves a line.
        pause: seconds that each run sleeps.
    """

    def __init__(self, client: Client, files: list[Path], journal: Path, pause: float) -> None:
        self._client = client
        self._calls = [call(watched_count, str(file), str(journal), pause) for file in files]
        self._handles: list[Handle[dict[str, int]]] = []
        self._began = 0.0

    def submit(self) -> Outcome:
        """Submit all tasks; returns when the broker has confirmed them."""
        self._began = time.monotonic()
        self._handles = self._client.submit_many(self._calls)
        return Outcome([handle.id for handle in self._handles], time.monotonic() - self._began)

    def follow(self, outcome: Outcome, check: Callable[[], None]) -> Iterator[int]:
        """Gather the results as they come; yield how many there are after each.

        Args:
            outcome: of `submit`; completed here.
            check: called now and then; raises when waiting has become pointless.
        Raises:
            DemoError: nothing comes any more.
        """
        for done, handle in enumerate(self._completed(check), 1):
            try:
                outcome.totals.update(handle.result())
            except TaskError as error:
                outcome.failures.append(str(error))
            outcome.seconds = time.monotonic() - self._began
            yield done

    def _completed(self, check: Callable[[], None]) -> Iterator[Handle[dict[str, int]]]:
        left = {handle.id: handle for handle in self._handles}
        news = time.monotonic()
        while left:
            try:
                for handle in self._client.as_completed(left.values(), timeout=_LOOK):
                    del left[handle.id]
                    news = time.monotonic()
                    yield handle
            except ResultTimeout:
                check()
            if left and time.monotonic() > news + _PATIENCE:
                raise DemoError(f"{len(left)} of {len(self._handles)} tasks have no result, and nothing comes any more")
