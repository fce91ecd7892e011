"""The health server answers over real sockets, also when the loop is stuck or clients are slow; so does its command."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from click.testing import CliRunner, Result
from prometheus_client import Gauge

from common.errors import SettingsError
from common.health.cli import health
from common.health.listener import MAX_CONNECTIONS
from common.health.server import Check, HealthServer
from common.metrics import CollectorRegistry, new_registry


@contextlib.asynccontextmanager
async def serving(
    checks: Mapping[str, Check] | None = None,
    *,
    port: int = 0,
    registry: CollectorRegistry | None = None,
    stale_after: float = 10.0,
) -> AsyncIterator[HealthServer]:
    registry = registry if registry is not None else CollectorRegistry()
    server = HealthServer("127.0.0.1", port, registry, checks or {}, stale_after=stale_after)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def get(server: HealthServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers.get("Content-Type", ""), response.read().decode()
    finally:
        connection.close()


async def ask(server: HealthServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    return await asyncio.to_thread(get, server, path, method, **headers)


def _connection_threads() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


async def ready(server: HealthServer) -> tuple[int, Any]:
    status, _, body = await ask(server, "/readyz")
    return status, json.loads(body)


async def test_metrics_are_those_of_the_registry() -> None:
    registry = new_registry("worker")
    async with serving(registry=registry) as server:
        status, content_type, body = await ask(server, "/metrics?name=x")
        assert status == 200
        assert content_type.startswith("text/plain")
        assert 'warren_build_info{service="worker"' in body
        _, content_type, _ = await ask(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert content_type.startswith("application/openmetrics-text")


async def test_a_metric_that_fails_is_an_answer_not_a_dead_server(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> float:
        raise ZeroDivisionError

    registry = CollectorRegistry()
    Gauge("broken", "Broken.", registry=registry).set_function(fail)
    async with serving(registry=registry) as server:
        assert await ask(server, "/metrics") == (500, "text/plain", "ZeroDivisionError\n")
        assert (await ask(server, "/healthz"))[0] == 200
    assert "cannot answer a health request" in caplog.text


async def test_readiness_is_that_of_all_checks() -> None:
    reasons: dict[str, str | None] = {"broker": None, "store": None}
    async with serving({"broker": lambda: reasons["broker"], "store": lambda: reasons["store"]}) as server:
        assert await ready(server) == (200, {"ready": True, "checks": {"broker": "ok", "store": "ok"}})
        reasons["broker"] = "not connected"
        assert await ready(server) == (503, {"ready": False, "checks": {"broker": "not connected", "store": "ok"}})
        assert (await ask(server, "/healthz"))[0] == 200


async def test_a_check_that_raises_has_failed() -> None:
    def check() -> str | None:
        raise ZeroDivisionError

    async with serving({"broker": check}) as server:
        assert await ready(server) == (
            503,
            {"ready": False, "checks": {"broker": "the check raised ZeroDivisionError"}},
        )


async def test_a_draining_service_is_alive_and_not_ready() -> None:
    async with serving({"broker": lambda: None}) as server:
        await server.drain()
        assert await ready(server) == (503, {"ready": False, "checks": {"broker": "ok", "service": "draining"}})
        assert (await ask(server, "/healthz"))[0] == 200


async def test_a_stuck_event_loop_is_not_alive() -> None:
    async with serving(stale_after=0.2) as server:
        assert get(server, "/healthz")[0] == 200
        time.sleep(0.3)  # noqa: ASYNC251 - the loop is to be stuck
        status, _, body = get(server, "/healthz")
        assert status == 503
        assert json.loads(body)["alive"] is False


async def test_a_loop_that_goes_on_is_alive() -> None:
    async with serving(stale_after=1.0) as server:
        deadline = time.monotonic() + 1.2
        while time.monotonic() < deadline:
            assert (await ask(server, "/healthz"))[0] == 200
            await asyncio.sleep(0.1)


async def test_other_paths_and_methods_are_refused() -> None:
    async with serving() as server:
        assert (await ask(server, "/"))[0] == 404
        assert (await ask(server, "/healthz", "POST"))[0] == 501
        assert await ask(server, "/healthz", "HEAD") == (200, "application/json", "")


async def test_a_taken_port_gives_the_next_free_one() -> None:
    async with serving() as first, serving(port=first.port) as second:
        assert first.port < second.port <= first.port + 100
        assert second.url == f"http://127.0.0.1:{second.port}"
        assert (await ask(second, "/healthz"))[0] == 200


async def test_an_address_that_cannot_be_bound_is_a_wrong_setting() -> None:
    server = HealthServer("192.0.2.1", 0, CollectorRegistry(), {})
    with pytest.raises(SettingsError, match=r"http_host '192\.0\.2\.1'"):
        await server.start()


async def test_stop_frees_the_port_and_the_part_can_start_again() -> None:
    server = HealthServer("127.0.0.1", 0, CollectorRegistry(), {})
    await server.stop()
    await server.start()
    await server.start()
    port = server.port
    await server.stop()
    await server.stop()
    assert server.port == 0
    with socket.create_server(("127.0.0.1", port)):
        pass
    await server.start()
    assert (await ask(server, "/healthz"))[0] == 200
    await server.stop()


async def test_slow_clients_do_not_keep_a_health_check_out() -> None:
    async with serving() as server:
        with contextlib.ExitStack() as clients:
            for _ in range(3 * MAX_CONNECTIONS):
                client = clients.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
                client.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
            begun = time.monotonic()
            assert (await ask(server, "/healthz"))[0] == 200
            assert time.monotonic() - begun < 2.0
            async with asyncio.timeout(2):  # before they are cut off for being slow
                while _connection_threads() > MAX_CONNECTIONS:  # noqa: ASYNC110 - threads set no event
                    await asyncio.sleep(0.01)


class TestCommand:
    @staticmethod
    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, health, arguments)

    async def test_a_service_that_is_well(self) -> None:
        async with serving({"broker": lambda: None}) as server:
            alive = await self.run("--url", server.url)
            assert (alive.exit_code, alive.output[:3]) == (0, "ok:")
            able = await self.run("--url", server.url + "/", "--ready")
            assert (able.exit_code, able.output) == (0, "ok: broker: ok\n")

    async def test_a_service_that_is_not(self) -> None:
        async with serving({"broker": lambda: "not connected"}) as server:
            result = await self.run("--url", server.url, "--ready")
            assert (result.exit_code, result.output) == (1, "not ok: broker: not connected\n")
            result = await self.run("--url", server.url, "--ready", "--json")
            assert result.exit_code == 1
            assert json.loads(result.output) == {"ready": False, "checks": {"broker": "not connected"}}

    async def test_a_proxy_of_the_environment_is_not_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with serving() as server, serving({"proxy": lambda: "asked"}) as proxy:
            monkeypatch.setenv("http_proxy", f"{proxy.url}/no-such-page")
            assert (await self.run("--url", server.url)).exit_code == 0

    async def test_nobody_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        result = await self.run("--url", f"http://127.0.0.1:{port}")
        assert result.exit_code == 1
        assert "refused" in result.output

    async def test_what_is_no_address_is_refused(self) -> None:
        assert (await self.run("--url", "file:///etc/hostname")).exit_code == 2
