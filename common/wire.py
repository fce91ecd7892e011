"""The messages that travel between client, scheduler and workers.

JSON, one msgspec Struct for each kind, named in the AMQP property ``type`` as ``warren.<kind>.v1``. Arguments and
results travel as raw JSON and are decoded once, where they are used. Unknown fields are ignored, so that old and new
programs can talk during a rolling upgrade; an unknown major version is refused. `docs/protocol.md` explains the
format for producers in other languages, and the golden files in the tests pin it.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from common.errors import WireError
from common.options import LONGEST, Backoff, Label, Policy, TaskOptions

CONTENT_TYPE: Final = "application/json"
MAX_PACK_BYTES: Final = 1024 * 1024
"""A pack (submission, reply, told) closes at this size; one larger item travels alone, below the size limit."""
LARGEST_TASK: Final = 8 * 1024 * 1024
"""Bytes of one task's arguments that schedulers and clients can be told to take, at most."""
DEEPEST: Final = 1000
"""Nesting is not counted further than this."""
MAX_PACK_ITEMS: Final = 1000
"""A pack closes at this many items."""
BUNDLE_TASKS: Final = 200
"""The most tasks that a scheduler puts into one bundle."""

TaskId = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z", max_length=36)]
TaskName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.:-]*\Z", max_length=128)]
WorkerId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]+\Z", max_length=64)]
"""A part of routing keys and queue names."""
QueueName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z", max_length=64)]
Priority = Annotated[int, Meta(ge=0, le=9)]

DEFAULT_QUEUE: Final = "default"
DEFAULT_PRIORITY: Final = 4
EMPTY_ARGS: Final = Raw(b"[]")
EMPTY_KWARGS: Final = Raw(b"{}")
NULL: Final = Raw(b"null")


class ErrorKind(StrEnum):
    """Why a task failed."""

    EXCEPTION = "exception"
    """The handler raised."""
    BAD_ARGUMENTS = "bad_arguments"
    """The arguments do not fit the handler's annotations."""
    BAD_RESULT = "bad_result"
    """The result is not JSON or too large."""
    CRASHED = "crashed"
    """The process that ran it died, as often as is allowed."""
    UNKNOWN_FUNCTION = "unknown_function"
    """No worker knew the function during the grace time."""
    REFUSED = "refused"
    """The scheduler does not take it: too large, nested too deep, or one queue too many."""
    TIMEOUT = "timeout"
    """It ran longer than its timeout, soft or hard."""
    GAVE_UP = "gave_up"
    """The handler raised `Fail`."""
    RETRY = "retry"
    """The handler raised `Retry`."""


class OutcomeKind(StrEnum):
    """What a worker says about one lease."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETURNED = "returned"
    HELD = "held"


class ReturnReason(StrEnum):
    """Why a lease came back without having been run by this worker."""

    REDELIVERED = "redelivered"
    """The broker had given it to somebody else before: that holder may have died."""
    DRAIN = "drain"
    """This worker is stopping."""
    BUSY = "busy"
    """All slots stayed full."""
    UNKNOWN_FUNCTION = "unknown_function"
    """This worker does not know the function."""
    UNDECODABLE = "undecodable"
    """This worker could not decode the assignment."""
    EXPIRED = "expired"
    """Its time was over before it could be started here."""
    CANCELLED = "cancelled"
    """It was cancelled: the scheduler knows already."""
    AWAY = "away"
    """This worker stood still or was cut off before it started it: it may have been cancelled or given to others."""


class Isolation(StrEnum):
    """How far apart from other tasks a suspect is run."""

    NONE = "none"
    CHILD = "child"
    """In a child process of its own."""
    ALONE = "alone"
    """In a child process, in a worker that runs nothing else meanwhile."""


class Message(Struct):
    """A whole message, as opposed to a part of one."""

    TYPE: ClassVar[str] = ""
    """Its AMQP property ``type``."""


class TaskMessage(Struct, omit_defaults=True, gc=False):
    """One submitted task."""

    id: TaskId
    task: TaskName
    args: Raw = EMPTY_ARGS
    kwargs: Raw = EMPTY_KWARGS
    queue: QueueName = DEFAULT_QUEUE
    priority: Priority = DEFAULT_PRIORITY
    options: TaskOptions | None = None


class Submission(Message):
    """Client to scheduler: tasks to be done (``warren.submission.v1``)."""

    TYPE: ClassVar[str] = "warren.submission.v1"

    tasks: list[TaskMessage]


class RawSubmission(Message):
    """A submission whose tasks are decoded one by one, to find the bad one."""

    TYPE: ClassVar[str] = "warren.submission.v1"

    tasks: list[Raw]


EXPRESS_TASKS: Final = 20
"""So many express tasks may be at a worker; its direct queue hands over as many beyond those that fill its slots."""


class Assignment(Struct, omit_defaults=True, gc=False):
    """One dispatch of one task to whoever takes the bundle."""

    id: str
    task: str
    lease: str
    attempt: int
    args: Raw = EMPTY_ARGS
    kwargs: Raw = EMPTY_KWARGS
    isolation: Isolation = Isolation.NONE
    policy: Policy | None = None
    """What the submission said; the worker knows what the decorator says."""
    starts_within: float = 0.0
    """Seconds from the dispatch by which it has to be started; 0 is no limit."""


class Bundle(Message, omit_defaults=True):
    """Scheduler to worker: tasks to be run (``warren.bundle.v1``)."""

    TYPE: ClassVar[str] = "warren.bundle.v1"

    queue: str
    tasks: list[Assignment]
    number: int = 0
    """The lowest number of these dispatches. A scheduler counts them all, in the order in which it decides them."""
    express: bool = False
    """To be started before what came otherwise."""


class ErrorInfo(Struct, omit_defaults=True, gc=False):
    """A failure, as text."""

    kind: ErrorKind
    type: str
    message: str
    traceback: str = ""


class Advice(Struct, omit_defaults=True, frozen=True, gc=False):
    """What the worker knows about trying a failed task again; the scheduler decides.

    Attributes:
        give_up: this error is not to be retried.
        after: seconds to wait, when the handler said so itself (`Retry`).
        retries, backoff, max_crashes: what decorator and submission say, taken together.
    """

    give_up: bool = False
    after: Annotated[float, Meta(ge=0, le=LONGEST)] | None = None
    retries: int | None = None
    backoff: Backoff | None = None
    max_crashes: int | None = None


class Outcome(Struct, omit_defaults=True, gc=False):
    """What became of one lease."""

    id: str
    lease: str
    attempt: int
    kind: OutcomeKind
    result: Raw = NULL
    error: ErrorInfo | None = None
    reason: ReturnReason | None = None
    run_seconds: float = 0.0
    advice: Advice | None = None


class Reply(Message):
    """Worker to scheduler: outcomes of leases (``warren.reply.v1``)."""

    TYPE: ClassVar[str] = "warren.reply.v1"

    worker: WorkerId
    outcomes: list[Outcome]


class RawReply(Message):
    """A reply whose outcomes are decoded one by one, to find the bad one."""

    TYPE: ClassVar[str] = "warren.reply.v1"

    worker: WorkerId
    outcomes: list[Raw]


class Barrier(Message):
    """Scheduler to itself through the reply queue: every reply before it has been applied (``warren.barrier.v1``)."""

    TYPE: ClassVar[str] = "warren.barrier.v1"

    token: str


class TaskResult(Struct, omit_defaults=True, gc=False):
    """The terminal state of one task."""

    id: str
    state: str
    result: Raw = NULL
    error: ErrorInfo | None = None


class Told(Message, omit_defaults=True):
    """Scheduler to client: results, also as the answer to a `wait` question (``warren.told.v1``)."""

    TYPE: ClassVar[str] = "warren.told.v1"

    results: list[TaskResult] = []
    unknown: list[str] = []


class Load(Struct, omit_defaults=True, frozen=True, gc=False):
    """How busy a worker's process and machine are.

    Attributes:
        load_average: of the machine, over a minute; as many as there are cores is full.
        cores: of the machine, as far as the process may use them.
        memory: resident bytes of the worker's process and its children.
        loop_lag: seconds by which the task functions' event loop was late at worst since the last beat.
        lowered: why this worker takes fewer tasks than it has slots; empty when it does not.
    """

    load_average: float = 0.0
    cores: int = 0
    memory: int = 0
    loop_lag: float = 0.0
    lowered: Annotated[str, Meta(max_length=200)] = ""


class Beat(Message, omit_defaults=True):
    """Worker to schedulers: I am alive, and hold these leases (``warren.beat.v1``)."""

    TYPE: ClassVar[str] = "warren.beat.v1"

    worker: WorkerId
    number: int
    """Counts this worker's beats from 1."""
    queues: Annotated[list[QueueName], Meta(max_length=1000)]
    slots: Annotated[int, Meta(ge=0, le=100_000)]
    running: list[str]
    """Leases that have started and are not yet answered (reply confirmed)."""
    waiting: list[str]
    """Leases that have arrived and have not started."""
    ages: list[float] = []
    """Seconds for which each of `running` has run."""
    capacity: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """The slots that were configured; `slots` may be fewer for the moment."""
    processes: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """How many of the slots can run functions with ``runtime="process"``."""
    labels: Annotated[list[Label], Meta(max_length=64)] = []
    """What this worker has, for tasks that require it."""
    load: Load = Load()
    paused: bool = False
    """An operator has told it to take nothing (`drain`), and may tell it to go on (`resume`)."""
    direct: bool = False
    """It consumes a queue of its own (`Topology.direct_queue`), for tasks that not every worker can run."""
    asking: Annotated[str, Meta(max_length=64)] = ""
    """It could not hear control messages for a while, or not yet, and asks for the `mark` with this token."""
    draining: bool = False
    leaving: bool = False
    """The last beat of this worker."""
    probe: str = ""
    """The token of the last `probe` control message that this worker received."""
    interval: Annotated[float, Meta(ge=0, le=60)] = 1.0
    """Seconds until the next beat at the latest."""
    host: str = ""
    pid: int = 0
    version: str = ""
    started_at: float = 0.0
    functions: list[str] | None = None
    """The registered task functions whose requirements this worker's labels meet; sent in the first beats, every ten
    seconds and after a probe."""
    barred: list[str] | None = None
    """Those whose requirements they do not meet; sent with `functions`."""


class ControlVerb(StrEnum):
    """What a scheduler or an operator tells workers."""

    PROBE = "probe"
    """Send a beat now, with this token and with your functions."""
    CANCEL = "cancel"
    """Stop these leases where they run, and drop them where they wait."""
    MARK = "mark"
    """Give back what was dispatched before `number`: you may not have heard what became of it."""
    RENEW = "renew"
    """Subscribe anew to this queue: what was dispatched to it has vanished, so a consumer of it may be deaf."""
    PING = "ping"
    """Answer."""
    STATS = "stats"
    """Answer with counters: what was received, started, finished, is running and waiting."""
    STACKS = "stacks"
    """Answer with the stack of every running task."""
    DRAIN = "drain"
    """Take nothing more, finish what runs, and stay."""
    RESUME = "resume"
    """Take tasks again after `drain`."""
    SLOTS = "slots"
    """Run at most `slots` tasks at a time from now on."""
    SHUTDOWN = "shutdown"
    """Drain and end, as after SIGTERM."""
    LOG_LEVEL = "log-level"
    """Log from `level` on."""


class Control(Message, omit_defaults=True):
    """To workers through the control exchange (``warren.control.v1``)."""

    TYPE: ClassVar[str] = "warren.control.v1"

    verb: ControlVerb
    token: str = ""
    queue: str = ""
    leases: list[str] = []
    number: int = 0
    slots: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    level: Annotated[str, Meta(pattern=r"^(DEBUG|INFO|WARNING|ERROR)\Z")] = ""


class WorkerAnswer(Message, omit_defaults=True):
    """Worker to schedulers, through the beat exchange: the answer to an operator's command (``warren.answer.v1``).

    Attributes:
        worker: its id.
        token: of the control message.
        data: what was asked for, as JSON; an object whose form depends on the verb.
        error: why it was not done; empty when it was.
    """

    TYPE: ClassVar[str] = "warren.answer.v1"

    worker: WorkerId
    token: str
    data: Raw = EMPTY_KWARGS
    error: str = ""


M = TypeVar("M", bound=Struct)

_encoder = msgspec.json.Encoder()
_decoders: dict[type[Struct], msgspec.json.Decoder[Any]] = {}


def encode(message: Struct) -> bytes:
    """`message` as JSON bytes."""
    return _encoder.encode(message)


def decode(kind: type[M], body: bytes | Raw) -> M:
    """The message of type `kind` in `body`.

    Raises:
        WireError: not JSON, not of this form, or nested too deep; the text names the path of the fault.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        message: M = decoder.decode(body)
    except RecursionError:
        raise WireError("nested too deep") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WireError(str(error)) from None
    return message


def check_type(expected: type[Message], actual: str | None) -> None:
    """Refuse a message whose AMQP ``type`` is not the one expected.

    Raises:
        WireError: the type is missing, of another kind or of another major version.
    """
    if actual != expected.TYPE:
        raise WireError(f"the message's type is {actual!r}, expected {expected.TYPE!r}")


_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKETS = bytes.maketrans(b"[{]}", b"(())")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def json_depth(raw: bytes | Raw) -> int:
    """How deep arrays and objects nest in valid JSON; brackets inside strings do not count."""
    brackets = _STRINGS.sub(b"", bytes(raw)).translate(_BRACKETS, _NO_BRACKETS)
    depth = 0
    while brackets:
        # Innermost pairs go first, one level a round; a long run of siblings goes in one.
        brackets = brackets.replace(b"()", b"")
        depth += 1
        if depth > DEEPEST:
            break
    return depth
