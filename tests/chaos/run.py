"""One system from its start to its score.

A warm-up, a look at memory and files, the load with the faults beside it, everything mended, and then patience: it is
over when every task has come to its end, or when nothing has moved for a minute. What is missing then gets a second
chance, as an operator would give it: every process of the system is started anew.
"""

import contextlib
import heapq
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from deploy.local import RabbitNode
from tests.chaos.driver import CHUNK, Driver
from tests.chaos.faults import Faults
from tests.chaos.footprint import footprints, grown
from tests.chaos.plan import WORKERS, Fault, plan
from tests.chaos.score import Score, count, held, unfinished
from tests.chaos.systems import Site, System, depths
from tests.chaos.tally import Tally
from tests.chaos.workload import Job, job_of
from tests.support.proxy import Proxy

SLOTS: Final = 8
PATIENCE: Final = 60.0
"""Seconds without any task coming to its end after which a system counts as stuck."""
_WARM_UP: Final = 200  # tasks
_MOST_LATE: Final = 300.0  # seconds behind the end of the faults by which all has to be confirmed
_CALM: Final = 30.0  # seconds that queues, memory and files have to come back to where they were
_POLL: Final = 0.25  # seconds


class Watcher(Protocol):
    """Is told how it goes."""

    def fault(self, at: float, text: str, met: bool) -> None:
        """A fault begins, so many seconds after the start; or there is no such part in this system."""

    def progress(self, confirmed: int, done: int, total: int) -> None:
        """How many tasks there are by now."""

    def phase(self, text: str) -> None:
        """Another part begins."""


def run(
    make: Callable[[Site], System], folder: Path, *, seed: str, tasks: int, minutes: float, watch: Watcher
) -> Score:
    """Run one system.

    Args:
        make: builds it.
        folder: for its files; it must not exist.
        seed: of load and faults.
        tasks: how many.
        minutes: for how long they are submitted and things break.
        watch: is told how it goes.
    """
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(RabbitNode(folder / "node"))
        proxies = {
            name: stack.enter_context(Proxy("127.0.0.1", node.port)) for name in ("client", "scheduler", *WORKERS)
        }
        urls = {name: node.url().replace(str(node.port), str(proxy.port)) for name, proxy in proxies.items()}
        system = make(Site(node, urls, folder, SLOTS))
        stack.callback(system.stop)
        return _Run(node, proxies, system, folder, watch).score(seed, tasks, minutes)


class _Run:
    def __init__(
        self, node: RabbitNode, proxies: Mapping[str, Proxy], system: System, folder: Path, watch: Watcher
    ) -> None:
        self._node = node
        self._system = system
        self._watch = watch
        self._faults = Faults(node, system.parties, proxies)
        self._driver = Driver(system)
        self._tally = Tally(folder / "effects.log")
        self._total = 0

    def score(self, seed: str, tasks: int, minutes: float) -> Score:
        score = Score(
            system=self._system.label,
            setup=self._system.setup,
            lacks=self._system.lacks,
            broker=self._node.version,
            seed=seed,
            tasks=tasks,
            minutes=minutes,
            problems=[],
        )
        self._total = tasks
        jobs = [job_of(seed, key) for key in range(tasks)]
        try:
            self._warm_up(jobs[:_WARM_UP])
            score.before = footprints(self._system.parties)
            self._watch.phase("faults")
            self._driver.start(jobs[_WARM_UP:], minutes * 60.0)
            self._break_things(score, seed, minutes)
            self._settle(score)
        finally:
            self._driver.stop()
        return score

    def _warm_up(self, jobs: list[Job]) -> None:
        self._watch.phase("start")
        self._system.start()
        self._watch.phase("warm-up")
        for at in range(0, len(jobs), CHUNK):
            self._driver.submit(jobs[at : at + CHUNK])
        self._await_ends()

    def _break_things(self, score: Score, seed: str, minutes: float) -> None:
        """Walk through the plan, then mend what is left."""
        began = time.monotonic()
        coming: list[tuple[float, int, Callable[[], None]]] = []
        for number, fault in enumerate(plan(seed, minutes)):
            met = self._faults.meets(fault)

            def begin(fault: Fault = fault, met: bool = met, number: int = number) -> None:
                self._watch.fault(fault.at, str(fault), met)
                if not met:
                    return
                self._faults.begin(fault)
                heapq.heappush(coming, (fault.at + fault.seconds, number, lambda: self._faults.end(fault)))

            coming.append((fault.at, number, begin))
            score.faults += met
            score.no_object += not met
        heapq.heapify(coming)
        while coming:
            at, _, act = heapq.heappop(coming)
            while (left := began + at - time.monotonic()) > 0:
                self._look()
                time.sleep(min(_POLL, left))
            act()
        while (left := began + minutes * 60.0 - time.monotonic()) > 0:
            self._look()
            time.sleep(min(_POLL, left))
        self._faults.mend_everything()

    def _settle(self, score: Score) -> None:
        self._watch.phase("settle")
        ended = time.time()
        while self._driver.busy and time.time() < ended + _MOST_LATE:
            self._look()
            time.sleep(_POLL)
        self._driver.join(1.0)
        confirmed = time.time()
        score.by_itself = self._await_ends()
        if not score.by_itself:
            self._watch.phase(f"restart every process: {len(unfinished(self._driver, self._tally))} tasks are missing")
            for party in self._system.parties.values():
                party.kill()
            self._await_ends()
        score.finish = max(0.0, self._tally.last_end - max(ended, confirmed))
        self._watch.phase("checks")
        queues = self._await_empty_queues()
        score.messages = sum(queues.values())
        count(score, self._driver, self._tally)
        score.problems += [f"{name} holds {messages} messages" for name, messages in queues.items()]
        score.problems += [] if score.by_itself else ["it did not recover by itself"]
        score.problems += self._system.verdict()
        score.problems += self._await_footprints(score)

    def _await_ends(self) -> bool:
        """Wait until all has come to its end, or nothing moves any more; say which."""
        moved_at, ends = time.monotonic(), -1
        while True:
            self._look()
            missing = unfinished(self._driver, self._tally)
            if not missing:
                return True
            now, total = time.monotonic(), self._tally.starts.total() + self._tally.ends.total()
            if total != ends:
                moved_at, ends = now, total
            if now - moved_at > PATIENCE:
                return False
            time.sleep(_POLL)

    def _await_empty_queues(self) -> dict[str, int]:
        left: dict[str, int] = {}
        for _ in _until(_CALM):
            left = held(depths(self._node), self._system.shelves)
            if not left:
                break
        return left

    def _await_footprints(self, score: Score) -> list[str]:
        problems: list[str] = []
        for _ in _until(_CALM):
            score.after = footprints(self._system.parties)
            problems = grown(score.before, score.after)
            if not problems:
                break
        return problems

    def _look(self) -> None:
        self._tally.read()
        self._watch.progress(len(self._driver.confirmed), len(self._tally.ends), self._total)


def _until(seconds: float) -> Iterator[None]:
    """Look again and again for so many seconds, at least once."""
    deadline = time.monotonic() + seconds
    while True:
        yield
        if time.monotonic() > deadline:
            return
        time.sleep(_POLL)
