"""The proxy's faults, seen from a client's socket; and a broker behind it."""

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pika
import pytest

from deploy.local import Broker
from tests.support.proxy import Proxy


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(1 << 16):
                self.request.sendall(data)


class _EchoServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with _EchoServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            with Proxy("127.0.0.1", server.server_address[1]) as started:
                yield started
        finally:
            server.shutdown()
            thread.join()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5.0)


def exchange(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return receive(connection, len(data))


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            break
        data += piece
    return data


def nothing_arrives(connection: socket.socket) -> bool:
    connection.settimeout(0.2)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(5.0)
    return False


def test_bytes_pass_unchanged_and_the_end_too(proxy: Proxy) -> None:
    data = bytes(range(256)) * 8192
    with connect(proxy) as connection:
        threading.Thread(target=connection.sendall, args=(data,), daemon=True).start()
        assert receive(connection, len(data)) == data
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_cut_resets_and_refuses_until_healed(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        exchange(connection, b"x")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.heal()
    with connect(proxy) as connection:
        assert exchange(connection, b"again") == b"again"


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_dropped_bytes_are_gone_and_the_connection_is_reset_on_heal(proxy: Proxy, direction: str) -> None:
    with connect(proxy) as connection:
        exchange(connection, b"x")
        proxy.drop(direction)  # type: ignore[arg-type]
        connection.sendall(b"lost")
        assert nothing_arrives(connection)
        with connect(proxy) as later:
            later.sendall(b"lost too")
            assert nothing_arrives(later)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with connect(proxy) as connection:
        assert exchange(connection, b"again") == b"again"


def test_stalled_bytes_arrive_in_order_after_heal(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        exchange(connection, b"x")
        proxy.stall("down")
        connection.sendall(b"first ")
        assert nothing_arrives(connection)
        connection.sendall(b"second")
        proxy.heal()
        assert receive(connection, 12) == b"first second"


def test_delay_moves_every_byte_but_keeps_the_rate(proxy: Proxy) -> None:
    proxy.delay(0.15)
    with connect(proxy) as connection:
        started = time.monotonic()
        for _ in range(5):
            connection.sendall(b"x")
            time.sleep(0.01)  # apart on the wire, so that five delays in a row would show
        assert receive(connection, 5) == b"xxxxx"
        assert 0.3 <= time.monotonic() - started < 0.7


def test_slices_are_small_pieces_of_the_same_stream(proxy: Proxy) -> None:
    proxy.slice(3)
    with connect(proxy) as connection:
        connection.sendall(b"0123456789" * 100)
        assert receive(connection, 1000) == b"0123456789" * 100


def test_target_that_is_gone_is_a_reset() -> None:
    # The reset may come as early as in connect().
    with Proxy("127.0.0.1", 1) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as connection:
        connection.recv(1)


async def test_runs_beside_an_event_loop_and_counts_connections(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        exchange(connection, b"x")
        assert proxy.connections == 1
    deadline = time.monotonic() + 5
    while proxy.connections:
        assert time.monotonic() < deadline


def test_half_open_link_is_found_by_the_brokers_heartbeat(broker: Broker) -> None:
    if broker.node is None:
        pytest.skip("the broker's connections cannot be counted from outside")
    parameters = pika.URLParameters(broker.url)
    with Proxy(parameters.host, parameters.port) as proxy:
        parameters.host, parameters.port, parameters.heartbeat = "127.0.0.1", proxy.port, 1
        with contextlib.suppress(pika.exceptions.AMQPError), pika.BlockingConnection(parameters) as connection:
            proxy.drop("both")
            deadline = time.monotonic() + 10
            while broker.node.connection_count():
                assert time.monotonic() < deadline, "the broker still believes in the connection"
                connection.process_data_events(0.1)
            assert connection.is_open, "our side must not have been told"
            proxy.heal()
