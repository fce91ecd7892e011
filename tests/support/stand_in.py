"""A stand-in for the scheduler: a real consumer on a real broker, which knows a few functions and no rules."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import msgspec
import pika
from pika.exceptions import AMQPError

from common.questions import Ask, AskKind, AttemptRecord, DeadLetter, Progress, Statuses
from common.topology import Exchange, Queue, Topology
from common.wire import ErrorInfo, ErrorKind, Message, Submission, TaskMessage, TaskResult, Told, decode, encode
from tests.support.stand_in_administration import Administered
from tests.support.stand_in_questions import answer, describe


def _run(task: TaskMessage) -> TaskResult | None:
    """The result of a task; None for `never`."""
    args: list[Any] = msgspec.json.decode(task.args)
    kwargs: dict[str, Any] = msgspec.json.decode(task.kwargs)
    match task.task:
        case "add":
            result: Any = sum(args) + sum(kwargs.values())
        case "echo":
            result = {"args": args, "kwargs": kwargs, "queue": task.queue, "priority": task.priority}
        case "fail":
            error = ErrorInfo(ErrorKind.EXCEPTION, "ValueError", "no", "Traceback ...")
            return TaskResult(task.id, "failed", error=error)
        case "cancelled" | "expired" as state:
            return TaskResult(task.id, state)
        case "never":
            return None
        case _:
            result = None
    return TaskResult(task.id, "succeeded", msgspec.Raw(msgspec.json.encode(result)))


class StandIn:
    """Takes submissions and tells results, in a thread of its own; comes back when its connection is lost.

    Attributes:
        tasks: everything submitted, by id.
        results: the outcomes so far, by id.
        seen: how often each id was submitted.
        packs: how many tasks each submission had.
        asked: the questions so far.
        users: the `user_id` of each message.
        telling: results are told; otherwise they are only given to those who ask.
        answering: questions are answered.
        silent: so many questions are not answered, whatever `answering` says.
        progress, attempts, submitted_at: of tasks, by id.
        parked, replays: dead letters that are no tasks, and the ids of replays by that of the failed task.
        page: how many tasks are cancelled or moved, and changes told, for one question.
        administered: what operators see and do.
    """

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self._topology = Topology(namespace)
        self.tasks: dict[str, TaskMessage] = {}
        self.results: dict[str, TaskResult] = {}
        self.seen: Counter[str] = Counter()
        self.packs: list[int] = []
        self.asked: list[Ask] = []
        self.users: set[str | None] = set()
        self.reply_queues: set[str | None] = set()
        self.telling = True
        self.answering = True
        self.silent = 0
        self.progress: dict[str, Progress] = {}
        self.attempts: dict[str, list[AttemptRecord]] = {}
        self.submitted_at: dict[str, float] = {}
        self.parked: list[DeadLetter] = []
        self.replays: dict[str, str] = {}
        self.page = 1000
        self.administered = Administered()
        self._reply_to: dict[str, str] = {}
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._stay, name="stand-in scheduler", daemon=False)
        self._connection: pika.BlockingConnection | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(20), "the stand-in cannot connect"
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(10)

    def give(self, task_id: str, value: Any) -> None:
        """Give a task its result now, and tell nobody."""
        self.results[task_id] = TaskResult(task_id, "succeeded", msgspec.Raw(msgspec.json.encode(value)))

    def finish(self, task_id: str, value: Any) -> None:
        """Give a task its result now, and tell it."""
        self.give(task_id, value)
        self.tell(task_id)

    def tell(self, task_id: str) -> None:
        """Tell the outcome that a task has."""
        result = self.results[task_id]
        assert self._connection is not None
        self._connection.add_callback_threadsafe(lambda: self._tell(self._reply_to[task_id], Told([result]), None))

    def _stay(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(AMQPError, OSError):
                self._serve()
            time.sleep(0.05)

    def _serve(self) -> None:
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            self._connection = connection
            self._channel = connection.channel()
            topology = self._topology
            _declare(self._channel, topology.submit_exchange, topology.submit)
            _declare(self._channel, topology.request_exchange, topology.request)
            self._channel.basic_consume(topology.submit.name, self._submitted)
            self._channel.basic_consume(topology.request.name, self._question)
            self._ready.set()
            while not self._stopping.is_set():
                connection.process_data_events(0.05)

    def _submitted(self, channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        assert properties.type == Submission.TYPE
        assert properties.delivery_mode == 2
        self.users.add(properties.user_id)
        self.reply_queues.add(properties.reply_to)
        submission = decode(Submission, body)
        self.packs.append(len(submission.tasks))
        done: list[TaskResult] = []
        for task in submission.tasks:
            self.seen[task.id] += 1
            self.tasks[task.id] = task
            self.submitted_at[task.id] = time.time()
            self._reply_to[task.id] = str(properties.reply_to)
            result = None if task.options and (task.options.delay or task.options.run_at) else _run(task)
            if result is not None:
                self.results[task.id] = result
                done.append(result)
        if done and self.telling:
            self._tell(properties.reply_to, Told(done), None)
        channel.basic_ack(method.delivery_tag)

    def _question(self, channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self.users.add(properties.user_id)
        if self.silent:
            self.silent -= 1
            channel.basic_ack(method.delivery_tag)
            return
        if properties.type != Ask.TYPE:
            self._tell(properties.reply_to, answer(self, properties.type, body), properties.correlation_id)
            channel.basic_ack(method.delivery_tag)
            return
        ask = decode(Ask, body)
        self.asked.append(ask)
        if self.answering:
            reply: Message
            if ask.kind is AskKind.WAIT:
                for task_id in ask.ids:
                    self._reply_to[task_id] = str(properties.reply_to)
                reply = Told(
                    [self.results[task_id] for task_id in ask.ids if task_id in self.results],
                    [task_id for task_id in ask.ids if task_id not in self.tasks],
                )
            else:
                reply = Statuses(
                    [describe(self, task_id, whole=len(ask.ids) == 1) for task_id in ask.ids if task_id in self.tasks],
                    [task_id for task_id in ask.ids if task_id not in self.tasks],
                )
            self._tell(properties.reply_to, reply, properties.correlation_id)
        channel.basic_ack(method.delivery_tag)

    def _tell(self, reply_to: str | None, message: Message, question: str | None) -> None:
        properties = pika.BasicProperties(type=message.TYPE, correlation_id=question)
        self._channel.basic_publish("", str(reply_to), encode(message), properties)


def _declare(channel: Any, exchange: Exchange, queue: Queue) -> None:
    channel.exchange_declare(exchange.name, exchange.kind, durable=True)
    channel.queue_declare(queue.name, durable=queue.durable, arguments=dict(queue.arguments))
    for key in queue.routing_keys:
        channel.queue_bind(queue.name, exchange.name, key)


def eventually(holds: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait until a condition holds, and fail when it does not in time."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, "the condition does not come true"
        time.sleep(0.01)
