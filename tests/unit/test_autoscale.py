"""The autoscaler of the Compose project: what it decides, and what it understands of Prometheus' answers."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from deploy.autoscale import main, query, recommendation, workers_in
from deploy.replicas import Bounds, Replicas

BOUNDS = Bounds(least=1, most=8, cooldown=60.0)


class TestReplicas:
    def test_up_at_once(self) -> None:
        assert Replicas(BOUNDS).decide(0.0, 1, 5) == 5

    def test_within_the_bounds(self) -> None:
        assert Replicas(BOUNDS).decide(0.0, 1, 50) == 8
        assert Replicas(Bounds(least=2, most=8, cooldown=0.0)).decide(0.0, 1, 0) == 2

    def test_down_after_the_cool_down(self) -> None:
        replicas = Replicas(BOUNDS)
        assert replicas.decide(0.0, 5, 5) == 5
        assert replicas.decide(60.0, 5, 1) == 5
        assert replicas.decide(60.1, 5, 1) == 1

    def test_down_to_the_most_that_was_recommended_meanwhile(self) -> None:
        replicas = Replicas(BOUNDS)
        replicas.decide(0.0, 6, 6)
        replicas.decide(30.0, 6, 3)
        assert replicas.decide(61.0, 6, 1) == 3
        assert replicas.decide(91.0, 3, 1) == 1

    def test_what_ran_before_it_started_stays_for_the_cool_down(self) -> None:
        replicas = Replicas(BOUNDS)
        assert replicas.decide(0.0, 6, 1) == 6
        assert replicas.decide(61.0, 6, 1) == 1

    def test_without_an_answer_nobody_is_stopped(self) -> None:
        replicas = Replicas(BOUNDS)
        assert [replicas.decide(second, 4, None) for second in (0.0, 100.0, 200.0)] == [4, 4, 4]
        assert replicas.decide(230.0, 4, 1) == 4
        assert replicas.decide(261.0, 4, 1) == 1

    def test_without_an_answer_the_least_still_run(self) -> None:
        assert Replicas(BOUNDS).decide(0.0, 0, None) == 1

    @pytest.mark.parametrize(("least", "most", "cooldown"), [(3, 2, 1.0), (-1, 2, 1.0), (1, 2, -1.0)])
    def test_bounds_that_contradict_each_other(self, least: int, most: int, cooldown: float) -> None:
        with pytest.raises(ValueError):
            Bounds(least, most, cooldown)

    @given(st.lists(st.tuples(st.floats(0.1, 100.0), st.none() | st.integers(0, 20)), min_size=1))
    def test_never_fewer_than_recommended_and_never_outside_the_bounds(
        self, looks: list[tuple[float, int | None]]
    ) -> None:
        replicas, now, running = Replicas(BOUNDS), 0.0, 3
        for pause, recommended in looks:
            now += pause
            before, running = running, replicas.decide(now, running, recommended)
            assert BOUNDS.least <= running <= BOUNDS.most
            assert running >= min(BOUNDS.most, before if recommended is None else recommended)


class TestAnswers:
    def test_a_number(self) -> None:
        assert workers_in({"data": {"result": [{"metric": {}, "value": [1.0, "3"]}]}}) == 3

    @pytest.mark.parametrize(
        "answer",
        [
            {"data": {"result": []}},
            {"data": {"result": [{"value": [1.0, "NaN"]}]}},
            {"data": {"result": [{"value": [1.0, "+Inf"]}]}},
            {"data": {"result": [{"value": []}]}},
            {"status": "error"},
            [],
            None,
        ],
    )
    def test_no_number(self, answer: Any) -> None:
        assert workers_in(answer) is None

    def test_the_question_names_whole_queues(self) -> None:
        assert query(["default", "a.b"]) == ('sum(max by (queue) (warren_recommended_workers{queue=~"default|a[.]b"}))')

    def test_nobody_answers(self) -> None:
        assert recommendation("127.0.0.1:1", ["default"]) is None

    def test_asks_over_http(self, prometheus: tuple[str, list[str]]) -> None:
        address, asked = prometheus
        assert recommendation(address, ["default", "math"]) == 4
        assert asked == [query(["default", "math"])]


def test_bounds_are_checked_before_anything_is_done() -> None:
    done = CliRunner().invoke(main, ["--min", "3", "--max", "2"])
    assert done.exit_code == 2
    assert "at least 3 and at most 2" in done.output


@pytest.fixture
def prometheus() -> Iterator[tuple[str, list[str]]]:
    """An address that answers like Prometheus, and the questions that it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.extend(parse_qs(urlsplit(self.path).query)["query"])
            body = json.dumps({"status": "success", "data": {"result": [{"value": [0, "4"]}]}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()
        serving.join()
