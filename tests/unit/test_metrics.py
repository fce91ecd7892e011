"""The histogram agrees with Prometheus' own, labels stay bounded, broker events are counted."""

import asyncio
import re
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.events import BrokerConnected, BrokerLost, Published, PublishFailed
from common.metrics import (
    SECONDS,
    CollectorRegistry,
    FastHistogram,
    LabelBound,
    LoopCollector,
    exposition,
    new_registry,
    watch_broker,
)
from common.telemetry import Telemetry


@given(st.lists(st.one_of(st.sampled_from(SECONDS), st.floats(0, 100))))
def test_the_histogram_agrees_with_prometheus_own(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = FastHistogram("x_seconds", "X.", ("queue",), SECONDS, ours)
    reference = Histogram("x_seconds", "X.", ("queue",), buckets=SECONDS, registry=theirs).labels("default")
    mine.observe_many([], ("default",))
    mine.observe_many(values, ("default",))
    for value in values:
        reference.observe(value)
    for bound in ("0.0005", "0.25", "30.0", "+Inf"):
        labels = {"queue": "default", "le": bound}
        expected = theirs.get_sample_value("x_seconds_bucket", labels)
        assert ours.get_sample_value("x_seconds_bucket", labels) == (expected if values else None)
    if values:
        assert ours.get_sample_value("x_seconds_sum", {"queue": "default"}) == pytest.approx(sum(values))


def test_a_histogram_without_labels_exists_from_the_start() -> None:
    registry = CollectorRegistry()
    FastHistogram("x_seconds", "X.", (), (1.0,), registry)
    assert registry.get_sample_value("x_seconds_count") == 0


def test_negative_values_do_not_make_the_sum_fall() -> None:
    registry = CollectorRegistry()
    histogram = FastHistogram("x_seconds", "X.", (), (1.0,), registry)
    histogram.observe_many([-5.0, 0.5])
    assert registry.get_sample_value("x_seconds_sum") == 0.5
    assert registry.get_sample_value("x_seconds_count") == 2


def test_no_value_is_lost_among_threads() -> None:
    registry = CollectorRegistry()
    histogram = FastHistogram("x_seconds", "X.", ("queue",), (1.0,), registry)

    def observe() -> None:
        for _ in range(100):
            histogram.observe_many([0.5] * 100, ("q",))

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.get_sample_value("x_seconds_count", {"queue": "q"}) == 40_000


def test_wrong_uses_of_a_histogram_are_refused() -> None:
    registry = CollectorRegistry()
    with pytest.raises(ValueError, match="rise"):
        FastHistogram("x", "X.", (), (2.0, 1.0), registry)
    histogram = FastHistogram("x", "X.", ("queue",), (1.0,), registry)
    with pytest.raises(ValueError, match="labels"):
        histogram.observe(1.0)
    with pytest.raises(ValueError, match="Duplicated"):
        FastHistogram("x", "X.", (), (1.0,), registry)


def test_names_beyond_the_bound_become_other() -> None:
    bound = LabelBound(3, ("default",))
    assert [bound(name) for name in ("a", "b", "c", "a", "default", "d")] == [
        "a",
        "b",
        "other",
        "a",
        "default",
        "other",
    ]


def test_ten_thousand_names_make_no_more_series_than_the_bound() -> None:
    registry = CollectorRegistry()
    bound = LabelBound(10)
    histogram = FastHistogram("x_seconds", "X.", ("task",), (1.0,), registry)
    for number in range(10_000):
        histogram.observe(0.1, (bound(f"task{number}"),))
    assert exposition(registry)[0].count(b"x_seconds_count") == 11


def test_broker_events_are_counted() -> None:
    registry, telemetry = new_registry("worker"), Telemetry()
    watch_broker(registry, telemetry)
    connection = {"connection": "worker.publish"}
    telemetry.emit(BrokerConnected("worker.publish", "4.3.5"))
    assert registry.get_sample_value("warren_broker_connected", connection) == 1
    telemetry.emit(BrokerLost("worker.publish", "cut"))
    assert registry.get_sample_value("warren_broker_connected", connection) == 0
    assert registry.get_sample_value("warren_broker_lost_total", connection) == 1
    telemetry.emit(Published("worker.publish", 0.002, 100))
    assert registry.get_sample_value("warren_publish_confirm_seconds_bucket", {"le": "0.0025"}) == 1
    assert registry.get_sample_value("warren_publish_confirm_seconds_bucket", {"le": "0.001"}) == 0
    telemetry.emit(PublishFailed("worker.publish", "timeout"))
    assert registry.get_sample_value("warren_publish_failed_total", {"reason": "timeout"}) == 1


def test_the_exposition_has_the_version_and_no_created_series() -> None:
    registry, telemetry = new_registry("scheduler"), Telemetry()
    watch_broker(registry, telemetry)
    telemetry.emit(BrokerLost("scheduler.consume", "cut"))
    text, content_type = exposition(registry)
    assert content_type.startswith("text/plain")
    assert b'warren_build_info{service="scheduler",version="' in text
    assert b"process_resident_memory_bytes" in text
    assert b"_created" not in text
    assert exposition(registry, "application/openmetrics-text; version=1.0.0")[0].endswith(b"# EOF\n")


class _Thread(Collector):
    """Tells in which thread it is asked, as the value of a gauge; fails when told to."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def collect(self) -> list[Metric]:
        if self.error is not None:
            raise self.error
        return [GaugeMetricFamily("in_thread", "Where.", threading.get_ident())]


async def test_what_belongs_to_a_loop_is_collected_there() -> None:
    registry, live, inner = CollectorRegistry(), LoopCollector(timeout=1.0), _Thread()
    registry.register(live)
    live.add(inner)
    here = threading.get_ident()

    def scrape() -> tuple[int, float | None]:
        return threading.get_ident(), registry.get_sample_value("in_thread")

    there, said = await asyncio.to_thread(scrape)
    assert said == there != here, "nobody changes anything yet"
    await live.start()
    assert (await asyncio.to_thread(scrape))[1] == here
    assert scrape()[1] == here, "without waiting for itself"

    inner.error = RuntimeError("a fault of ours")
    with pytest.raises(RuntimeError, match="a fault of ours"):
        await asyncio.to_thread(scrape)
    inner.error = None

    asked = asyncio.get_running_loop().run_in_executor(None, scrape)
    time.sleep(1.5)  # noqa: ASYNC251 - the loop is busy for longer than a scrape waits
    assert (await asked)[1] is None, "what cannot be seen now is left out"
    await live.stop()
    there, said = await asyncio.to_thread(scrape)
    assert said == there


def test_a_scrape_is_answered_before_prometheus_gives_it_up() -> None:
    settings = (Path(__file__).parents[2] / "deploy" / "prometheus" / "prometheus.yml").read_text()
    patience = [float(seconds) for seconds in re.findall(r"scrape_timeout: (\d+)s", settings)]
    assert LoopCollector()._timeout < min(patience)
