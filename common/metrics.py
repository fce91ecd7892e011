"""What every service counts, and the pieces that its own metrics module is made of.

Only this module and the services' metrics modules import prometheus_client. Metrics are fed by telemetry events,
usually one for a whole batch, so `FastHistogram` takes many values at once.
"""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate, pairwise
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from common.events import BrokerConnected, BrokerLost, Published, PublishFailed
from common.telemetry import Telemetry

OTHER: Final = "other"
"""The label of every name beyond a bound."""

SECONDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Buckets for what takes from half a millisecond to half a minute."""

LONG_SECONDS: Final = (*SECONDS, 60.0, 300.0, 900.0, 3600.0)
"""Buckets for what may take up to an hour: run times and waits."""

COUNTS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
"""Buckets for the number of tasks in a batch."""


class FastHistogram(Collector):
    """A histogram for hot paths: one lock for each batch of values, below 0.3 microseconds a value.

    Args:
        name: with its unit as the suffix, such as ``warren_task_run_seconds``.
        documentation: the help text.
        labels: the label names.
        buckets: the upper bounds, rising, without infinity.
        registry: where it is exposed.

    Example:
        >>> registry = CollectorRegistry()
        >>> wait = FastHistogram("wait_seconds", "Time in the queue.", ("queue",), SECONDS, registry)
        >>> wait.observe_many([0.002, 0.004], ("default",))
        >>> registry.get_sample_value("wait_seconds_count", {"queue": "default"})
        2.0
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        if not buckets or any(a >= b for a, b in pairwise(buckets)):
            raise ValueError("buckets have to rise")
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._bounds = list(buckets)
        self._texts = [*map(floatToGoString, buckets), "+Inf"]
        self._children: dict[tuple[str, ...], _Child] = {}
        self._lock = threading.Lock()
        if not self._labels:
            self._child(())
        registry.register(self)

    def observe(self, value: float, labels: tuple[str, ...] = ()) -> None:
        """Count one value."""
        self.observe_many((value,), labels)

    def observe_many(self, values: Sequence[float], labels: tuple[str, ...] = ()) -> None:
        """Count `values`, all with the same label values, in the order of the label names.

        Negative values, which differences between two machines' clocks can be, count as 0: a sum that falls would look
        like a restart of the process.
        """
        if not values:
            return
        if min(values) < 0.0:
            values = [max(value, 0.0) for value in values]
        child = self._children.get(labels) or self._child(labels)
        bounds, counts = self._bounds, child.counts
        with child.lock:
            for value in values:
                counts[bisect_left(bounds, value)] += 1
            child.sum += sum(values)

    def _child(self, labels: tuple[str, ...]) -> _Child:
        if len(labels) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {self._labels}, not {len(labels)} of them")
        with self._lock:
            return self._children.setdefault(labels, _Child(len(self._bounds) + 1))

    def describe(self) -> Iterable[Metric]:
        """The family without values; keeps the registry from collecting at registration."""
        return [self._family()]

    def collect(self) -> Iterator[Metric]:
        """The family with all its values."""
        family = self._family()
        with self._lock:
            children = list(self._children.items())
        for labels, child in children:
            with child.lock:
                counts, total = list(child.counts), child.sum
            buckets = list(zip(self._texts, map(float, accumulate(counts)), strict=True))
            family.add_metric(labels, buckets, total)
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._documentation, labels=self._labels)


class _Child:
    __slots__ = ("counts", "lock", "sum")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        self.sum = 0.0
        self.lock = threading.Lock()


class LabelBound:
    """Keeps the values of one label within a bound: the first `limit` names as they are, later ones as ``other``.

    Args:
        limit: how many names are kept.
        names: names that are kept in any case, and count towards the limit.
        admits: whether a name may have one of the places; by default each may.
    """

    def __init__(self, limit: int, names: Iterable[str] = (), admits: Callable[[str], bool] | None = None) -> None:
        self._admits = admits
        self._limit = limit
        self._names = {name: name for name in names}

    def __call__(self, name: str) -> str:
        """`name`, or ``other`` when the bound is reached."""
        known = self._names.get(name)
        if known is not None:
            return known
        if len(self._names) >= self._limit or (self._admits is not None and not self._admits(name)):
            return OTHER
        self._names[name] = name
        return name


def new_registry(service: str) -> CollectorRegistry:
    """A registry with ``warren_build_info`` and the usual metrics of a process and of Python.

    Args:
        service: ``scheduler`` or ``worker``.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    build = Gauge("warren_build_info", "The version that runs, as a label.", ("version", "service"), registry=registry)
    build.labels(package_version(), service).set(1)
    return registry


def package_version() -> str:
    """The installed version of Warren, or ``unknown`` when it runs from a bare source tree."""
    try:
        return version("warren")
    except PackageNotFoundError:
        return "unknown"


def watch_broker(registry: CollectorRegistry, telemetry: Telemetry) -> None:
    """Count what `common.broker` emits."""
    connected = Gauge(
        "warren_broker_connected", "Whether this connection is up (1) or not (0).", ("connection",), registry=registry
    )
    lost = Counter("warren_broker_lost", "Connections that ended or failed.", ("connection",), registry=registry)
    failed = Counter("warren_publish_failed", "Messages without a confirm.", ("reason",), registry=registry)
    confirm = FastHistogram(
        "warren_publish_confirm_seconds", "From a publish until its confirm.", (), SECONDS, registry
    )

    def on_lost(event: BrokerLost) -> None:
        connected.labels(event.connection).set(0)
        lost.labels(event.connection).inc()

    telemetry.on(BrokerConnected, lambda event: connected.labels(event.connection).set(1))
    telemetry.on(BrokerLost, on_lost)
    telemetry.on(Published, lambda event: confirm.observe(event.seconds))
    telemetry.on(PublishFailed, lambda event: failed.labels(event.reason).inc())


class LoopCollector(Collector):
    """Collects, in the event loop of a service, from what belongs to that loop; scrapes come in threads of their own.

    A part of its service. While that does not run, nobody changes what is collected, and any thread may.

    Args:
        timeout: seconds that a scrape waits for the loop, fewer than Prometheus waits for the scrape. What cannot be
            seen by then is left out; `/healthz` says why.
    """

    def __init__(self, timeout: float = 3.0) -> None:
        self._timeout = timeout
        self._inner: list[Collector] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def add(self, collector: Collector) -> None:
        """Collect from this one, too."""
        self._inner.append(collector)

    async def start(self) -> None:
        """Collect in this event loop from now on."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    async def drain(self) -> None:
        """Nothing: what drains is looked at, too."""

    async def stop(self) -> None:
        """The loop ends."""
        self._loop = None

    def describe(self) -> list[Metric]:
        """Nothing is promised before there is something to collect from."""
        return []

    def collect(self) -> list[Metric]:
        """What there is now."""
        loop = self._loop
        if loop is None or loop.is_closed() or threading.get_ident() == self._thread:
            return self._collect()
        answer: Future[list[Metric]] = Future()
        try:
            loop.call_soon_threadsafe(self._answer, answer)
        except RuntimeError:  # closed in this instant
            return []
        return answer.result() if wait([answer], self._timeout).done else []

    def _answer(self, answer: Future[list[Metric]]) -> None:
        try:
            answer.set_result(self._collect())
        except Exception as error:  # noqa: BLE001 - it belongs to the thread that asks
            answer.set_exception(error)

    def _collect(self) -> list[Metric]:
        return [metric for collector in self._inner for metric in collector.collect()]


def exposition(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Everything in `registry` as text, and its content type.

    Args:
        registry: what to expose.
        accept: the HTTP ``Accept`` header, which chooses between Prometheus' text format and OpenMetrics.
    """
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


__all__ = [
    "COUNTS",
    "LONG_SECONDS",
    "OTHER",
    "SECONDS",
    "CollectorRegistry",
    "FastHistogram",
    "LabelBound",
    "LoopCollector",
    "exposition",
    "new_registry",
    "package_version",
    "watch_broker",
]
