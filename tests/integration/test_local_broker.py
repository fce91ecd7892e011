"""The private node: what it survives, what its faults do to clients, and that nothing of it stays."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pika
import pika.exceptions
import pytest

from deploy.local import BrokerError, RabbitNode, find_broker
from deploy.local.container import speaks_amqp
from deploy.local.processes import alive, descendants

QUORUM = {"x-queue-type": "quorum"}
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def connect(node: RabbitNode) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(node.url()))


def publish(node: RabbitNode, queue: str, *bodies: bytes) -> None:
    """Publish persistent messages to a durable quorum queue and return after their confirms."""
    with connect(node) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True, arguments=QUORUM)
        for body in bodies:
            channel.basic_publish("", queue, body, PERSISTENT, mandatory=True)
    node.flush_metadata()


def fetch(node: RabbitNode, queue: str) -> bytes | None:
    with connect(node) as connection:
        body: bytes | None = connection.channel().basic_get(queue, auto_ack=True)[2]
        return body


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@pytest.mark.parametrize("way", ["kill", "restart", "stop"])
def test_confirmed_message_survives(private_broker: RabbitNode, namespace: str, way: str) -> None:
    queue, port, url = f"{namespace}.q", private_broker.port, private_broker.url()
    publish(private_broker, queue, b"kept")
    getattr(private_broker, way)()
    if way != "restart":
        assert not speaks_amqp("127.0.0.1", port)
        private_broker.start()
    assert (private_broker.port, private_broker.url()) == (port, url)
    assert fetch(private_broker, queue) == b"kept"


def test_wipe_loses_everything(private_broker: RabbitNode, namespace: str) -> None:
    publish(private_broker, f"{namespace}.q", b"lost")
    with pytest.raises(BrokerError, match="only be wiped while the node is stopped"):
        private_broker.wipe()
    private_broker.kill()
    private_broker.wipe()
    private_broker.start()
    assert private_broker.queue_depths() == {}


def test_kill_takes_the_child_processes_along(private_broker: RabbitNode) -> None:
    children = descendants(private_broker.pid)
    assert children
    private_broker.kill()
    until(lambda: not any(alive(pid) for pid in children))
    assert not private_broker.running


def test_depths_of_quorum_and_classic_queues_are_of_this_moment(private_broker: RabbitNode, namespace: str) -> None:
    quorum, classic = f"{namespace}.quorum", f"{namespace}. with a blank ü"
    with connect(private_broker) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for queue, arguments in ((quorum, QUORUM), (classic, {})):
            channel.queue_declare(queue, durable=True, arguments=arguments)
            for _ in range(3):
                channel.basic_publish("", queue, b"x", PERSISTENT, mandatory=True)
            assert private_broker.queue_depths()[queue] == (3, 0, 0)
        channel.basic_qos(prefetch_count=2)
        for queue in (quorum, classic):
            channel.basic_consume(queue, lambda *_: None)
            until(lambda queue=queue: private_broker.queue_depths()[queue] == (1, 2, 1))  # type: ignore[misc]


def test_memory_alarm_blocks_publishers_until_it_is_cleared(private_broker: RabbitNode, namespace: str) -> None:
    queue, events = f"{namespace}.q", list[str]()
    publish(private_broker, queue)
    with connect(private_broker) as connection:
        connection.add_on_connection_blocked_callback(lambda *_: events.append("blocked"))
        connection.add_on_connection_unblocked_callback(lambda *_: events.append("unblocked"))
        private_broker.set_memory_alarm(True)
        connection.channel().basic_publish("", queue, b"x", PERSISTENT)
        until(lambda: connection.process_data_events(0.1) or events == ["blocked"])
        assert private_broker.queue_depths()[queue].ready == 0
        private_broker.set_memory_alarm(False)
        until(lambda: connection.process_data_events(0.1) or events == ["blocked", "unblocked"])
        until(lambda: private_broker.queue_depths()[queue].ready == 1)


def test_closed_connections_are_told_why(private_broker: RabbitNode) -> None:
    connection = connect(private_broker)
    private_broker.close_all_connections("maintenance ä")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as caught:
        connection.process_data_events(10)
    assert caught.value.reply_code == 320
    assert "maintenance" in caught.value.reply_text


def test_consumer_timeout_ends_the_consumer(private_broker: RabbitNode, namespace: str) -> None:
    """Up to 4.2 the broker closes the channel; from 4.3 on it cancels the consumer."""
    publish(private_broker, f"{namespace}.q", b"x")
    private_broker.set_consumer_timeout(300)
    with connect(private_broker) as connection:
        channel = connection.channel()
        cancelled: list[object] = []
        channel.add_on_cancel_callback(cancelled.append)
        channel.basic_consume(f"{namespace}.q", lambda *_: None)
        until(lambda: bool(connection.process_data_events(0.1) or cancelled) or not channel.is_open)
    until(lambda: private_broker.queue_depths()[f"{namespace}.q"].ready == 1)


def test_paused_node_does_not_answer_and_goes_on_when_resumed(private_broker: RabbitNode, namespace: str) -> None:
    private_broker.pause()
    assert not speaks_amqp("127.0.0.1", private_broker.port, timeout=0.3)
    with pytest.raises(BrokerError, match="does not answer"):
        private_broker.eval("ok.", timeout=0.3)
    private_broker.resume()
    publish(private_broker, f"{namespace}.q", b"x")


def test_user_is_refused_what_it_has_no_right_to(private_broker: RabbitNode, namespace: str) -> None:
    own, other = f"{namespace}.own", f"{namespace}.other"
    for password in ("secret", "changed"):
        private_broker.add_user("alice", password, f"^{namespace}\\.own$", "^$", "^$")
    url = private_broker.url("alice", "changed")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_declare(own, durable=True, arguments=QUORUM)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            connection.channel().queue_declare(other, durable=True, arguments=QUORUM)
    assert "alice" in private_broker.ctl("list_users")


def test_ctl_says_what_failed(private_broker: RabbitNode) -> None:
    with pytest.raises(BrokerError, match=r"rabbitmqctl change_password nobody x failed: (?s:.)*does not exist"):
        private_broker.ctl("change_password", "nobody", "x")


def test_start_that_fails_shows_the_end_of_the_log(tmp_path: Path) -> None:
    node = RabbitNode(tmp_path, settings=["no.such.setting = 1"])
    try:
        with pytest.raises(BrokerError, match=r"died on start (?s:.)*no\.such\.setting"):
            node.start()
    finally:
        node.close()
    assert not node.processes()


def test_a_port_that_was_taken_meanwhile_is_given_up() -> None:
    node = RabbitNode()
    with socket.socket(socket.AF_INET) as taker:
        taker.bind(("127.0.0.1", node.port))
        taker.listen()
        taken = node.port
        with node:
            assert node.port != taken
            with pika.BlockingConnection(pika.URLParameters(node.url())):
                pass
            node.restart()
            assert node.port != taken


def test_node_dies_with_its_owner(tmp_path: Path) -> None:
    """SIGKILL of the owner leaves no node, no port mapper and no folder behind."""
    script = "from deploy.local.broker import main; main(['--print-url'])"
    environment = {key: value for key, value in os.environ.items() if key != "WARREN_AMQP_URL"} | {"TMPDIR": "/tmp"}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().startswith(b"amqp://")
        left = descendants(owner.pid)
        folders = {Path(f"/proc/{pid}/cwd").readlink() for pid in left}
        owner.send_signal(signal.SIGKILL)
    assert len(left) >= 2
    until(lambda: not any(alive(pid) for pid in left))
    until(lambda: not any(folder.exists() for folder in folders if folder.name == "node"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_broker_command_cleans_up(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "deploy.local.broker", "--print-url"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().decode().strip()
        pika.BlockingConnection(pika.URLParameters(url)).close()
        left = descendants(owner.pid)
        owner.send_signal(number)
    until(lambda: not any(alive(pid) for pid in left))


def test_url_of_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARREN_AMQP_URL", "amqp://somewhere/")
    with find_broker() as broker:
        assert broker.url == "amqp://somewhere/"
        assert broker.node is None


def test_without_any_broker_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.find.find_installation", lambda: None)
    monkeypatch.setattr("deploy.local.find.docker_runs", lambda: False)
    with pytest.raises(BrokerError, match="apt-get install rabbitmq-server"), find_broker(url="", may_install=False):
        pass
