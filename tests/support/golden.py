"""One message of each kind, as objects; `tests/unit/golden/*.json` holds how each looks on the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from msgspec import Raw, Struct

from common.administration import (
    Change,
    ChangeMade,
    Changes,
    Command,
    CommandAnswer,
    CommandAnswers,
    ListChanges,
    ListQueues,
    ListQuotas,
    ListWorkers,
    QueueReport,
    Queues,
    Quotas,
    Rearrange,
    Rearranged,
    RunningAttempt,
    SetQuota,
    WorkerReport,
    Workers,
    WorkerState,
)
from common.options import Backoff, BackoffKind, Policy, TaskOptions
from common.questions import (
    Ask,
    AskKind,
    AttemptRecord,
    Cancel,
    Cancelled,
    Dead,
    DeadLetter,
    DeadLetters,
    DeadVerb,
    Filter,
    ListTasks,
    Progress,
    ProgressReport,
    Statuses,
    TaskStatus,
)
from common.quotas import Quota, Rate, Scope
from common.wire import (
    Advice,
    Assignment,
    Barrier,
    Beat,
    Bundle,
    Control,
    ControlVerb,
    ErrorInfo,
    ErrorKind,
    Isolation,
    Load,
    Outcome,
    OutcomeKind,
    Reply,
    ReturnReason,
    Submission,
    TaskMessage,
    TaskResult,
    Told,
    WorkerAnswer,
)

GOLDEN: Final = Path(__file__).parents[1] / "unit" / "golden"

ADD: Final = "0193b0de-7c00-7000-8000-000000000001"
MAIL: Final = "0193b0de-7c00-7000-8000-000000000002"
CRASH: Final = "0193b0de-7c00-7000-8000-000000000003"
LEASES: Final = ("AAAAAAAAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBBBBBBBA", "CCCCCCCCCCCCCCCCCCCCCA", "DDDDDDDDDDDDDDDDDDDDDA")
WORKER: Final = "host-4711-2f9c"

MESSAGES: Final[dict[str, Struct]] = {
    "submission": Submission(
        [
            TaskMessage(ADD, "add", Raw(b"[2,3]")),
            TaskMessage(
                MAIL, "mail.send", Raw(b'["anna@example.org"]'), Raw('{"subject":"Grüße"}'.encode()), "email", 7
            ),
        ]
    ),
    "submission-with-options": Submission(
        [
            TaskMessage(
                MAIL,
                "mail.send",
                Raw(b'["anna@example.org"]'),
                options=TaskOptions(
                    delay=3600.0,
                    expires_in=86400.0,
                    timeout=30.0,
                    retries=5,
                    backoff=Backoff(BackoffKind.LINEAR, 10.0),
                    give_up_on=("NoSuchAddress",),
                    result_ttl=604800.0,
                    idempotency_key="welcome-anna",
                    key="customer-7",
                    labels={"campaign": "spring"},
                ),
            ),
        ]
    ),
    "bundle": Bundle(
        "default",
        [
            Assignment(ADD, "add", LEASES[0], 1, Raw(b"[2,3]")),
            Assignment(MAIL, "mail.send", LEASES[1], 2, Raw(b"[]"), Raw(b'{"to":"anna@example.org"}')),
        ],
        4711,
    ),
    "bundle-of-a-suspect": Bundle(
        "default", [Assignment(CRASH, "crash", LEASES[2], 3, isolation=Isolation.ALONE)], 4713
    ),
    "bundle-express": Bundle("default", [Assignment(ADD, "add", LEASES[0], 1, Raw(b"[2,3]"))], 4714, express=True),
    "reply": Reply(
        WORKER,
        [
            Outcome(ADD, LEASES[0], 1, OutcomeKind.SUCCEEDED, Raw(b"5"), run_seconds=0.25),
            Outcome(
                MAIL,
                LEASES[1],
                2,
                OutcomeKind.FAILED,
                error=ErrorInfo(
                    ErrorKind.EXCEPTION, "ValueError", "no such address", "Traceback (most recent call ..."
                ),
                run_seconds=1.5,
            ),
            Outcome(CRASH, LEASES[2], 3, OutcomeKind.RETURNED, reason=ReturnReason.REDELIVERED),
            Outcome("0193b0de-7c00-7000-8000-000000000004", LEASES[3], 1, OutcomeKind.HELD),
        ],
    ),
    "bundle-with-policy": Bundle(
        "default",
        [
            Assignment(
                ADD,
                "add",
                LEASES[0],
                1,
                Raw(b"[2,3]"),
                policy=Policy(timeout=10.0, retries=3, backoff=Backoff(BackoffKind.LINEAR, 2.0), retry_on=("OSError",)),
                starts_within=30.0,
            )
        ],
        4712,
    ),
    "reply-of-failures": Reply(
        WORKER,
        [
            Outcome(
                MAIL,
                LEASES[1],
                2,
                OutcomeKind.FAILED,
                error=ErrorInfo(ErrorKind.RETRY, "Retry", "the server is busy"),
                run_seconds=1.5,
                advice=Advice(after=30.0, retries=5, backoff=Backoff(cap=60.0)),
            ),
            Outcome(CRASH, LEASES[2], 3, OutcomeKind.RETURNED, reason=ReturnReason.CANCELLED),
        ],
    ),
    "progress": ProgressReport(WORKER, {LEASES[0]: Progress(3.0, 10.0, "page 3", 1733200000.0)}),
    "control-cancel": Control(ControlVerb.CANCEL, leases=[LEASES[0], LEASES[1]]),
    "barrier": Barrier("kZ0a1b2c3d4e5f6g"),
    "told": Told(
        [
            TaskResult(ADD, "succeeded", Raw(b"5")),
            TaskResult(MAIL, "failed", error=ErrorInfo(ErrorKind.BAD_ARGUMENTS, "BadArguments", "subject: not a str")),
        ]
    ),
    "told-unknown": Told(unknown=[CRASH]),
    "ask-wait": Ask(AskKind.WAIT, [ADD, MAIL]),
    "ask-status": Ask(AskKind.STATUS, [ADD, CRASH]),
    "statuses": Statuses(
        [
            TaskStatus(ADD, "running", "add", "default", 4, 1, WORKER, 1733200000.5, 1733200000.75),
            TaskStatus(
                MAIL, "queued", "mail.send", "email", 7, submitted_at=1733200001.25, note="no live worker serves it"
            ),
        ],
        [CRASH],
    ),
    "statuses-of-one": Statuses(
        [
            TaskStatus(
                MAIL,
                "running",
                "mail.send",
                "email",
                attempt=2,
                worker=WORKER,
                submitted_at=1733200001.25,
                dispatched_at=1733200012.5,
                expires_at=1733286401.25,
                failures=1,
                progress=Progress(3.0, 10.0, "page 3", 1733200013.0),
                attempts=[
                    AttemptRecord(
                        1, 1733200002.5, WORKER, ErrorInfo(ErrorKind.TIMEOUT, "TaskTimeout", "longer than 30 s")
                    )
                ],
                key="customer-7",
                labels={"campaign": "spring"},
            )
        ]
    ),
    "list": ListTasks(
        Filter(states=["failed", "expired"], task="mail.send", labels={"campaign": "spring"}, since=1733200000.0),
        after=4711,
        limit=200,
    ),
    "list-page": Statuses(
        [TaskStatus(MAIL, "failed", "mail.send", "email", submitted_at=1733200001.25, finished_at=1733200014.0)],
        next=4017,
    ),
    "cancel": Cancel(Filter(ids=[ADD, MAIL, CRASH])),
    "cancel-by-filter": Cancel(Filter(states=["scheduled", "queued", "dispatched"], queue="email"), after=4711),
    "cancelled": Cancelled({ADD: "succeeded", MAIL: "cancelled"}, [CRASH]),
    "dead": Dead(DeadVerb.REPLAY, Filter(task="mail.send"), "timeout", limit=200),
    "dead-parked": Dead(DeadVerb.SHOW, parked=[12]),
    "dead-letters": DeadLetters(
        [
            DeadLetter(
                MAIL,
                0,
                1733200014.0,
                "email",
                "timeout",
                "longer than 30 s",
                "mail.send",
                "email",
                "0193b0de-7c00-7000-8000-000000000009",
            ),
            DeadLetter(
                parked=12,
                at=1733200020.0,
                origin="submit",
                reason="undecodable",
                detail="$.tasks: not an array",
                payload='{"tasks": {}}',
            ),
        ],
        "t4711",
    ),
    "beat": Beat(
        WORKER,
        17,
        ["default", "email"],
        50,
        [LEASES[0]],
        [LEASES[1], LEASES[2]],
        draining=True,
        probe="kZ0a1b2c3d4e5f6g",
        interval=0.5,
        host="host",
        pid=4711,
        version="0.1.0",
        started_at=1733200000.0,
        functions=["add", "mail.send"],
        barred=["train"],
    ),
    "beat-last": Beat(WORKER, 18, ["default", "email"], 50, [], [], leaving=True),
    "control-probe": Control(ControlVerb.PROBE, "kZ0a1b2c3d4e5f6g"),
    "control-mark": Control(ControlVerb.MARK, "2", number=4714),
    "control-renew": Control(ControlVerb.RENEW, queue="email"),
    "beat-of-a-worker-under-load": Beat(
        WORKER,
        19,
        ["default", "email"],
        40,
        [LEASES[0]],
        [],
        ages=[12.5],
        capacity=50,
        processes=4,
        labels=["gpu"],
        load=Load(3.5, 4, 524288000, 0.25, "memory: 500 MB of 512 MB"),
        paused=True,
        direct=True,
    ),
    "control-slots": Control(ControlVerb.SLOTS, "kZ0a1b2c3d4e5f6g", slots=20),
    "control-log-level": Control(ControlVerb.LOG_LEVEL, "kZ0a1b2c3d4e5f6g", level="DEBUG"),
    "answer": WorkerAnswer(WORKER, "kZ0a1b2c3d4e5f6g", Raw(b'{"pid":4711}')),
    "list-queues": ListQueues(["email"]),
    "queues": Queues(
        [
            QueueReport(
                "email",
                1200,
                3,
                10,
                40,
                oldest=12.5,
                accepted=20.0,
                finished=19.5,
                drain_seconds=61.5,
                workers=2,
                slots=50,
                recommended_workers=3,
                window=60,
                quota=Quota(scope=Scope.QUEUE, name="email", weight=3.0, rate=Rate(100, 1.0)),
            ),
            QueueReport("images", 5, unrunnable=5, oldest=60.0, note="no live worker serves the queue 'images'"),
        ]
    ),
    "list-workers": ListWorkers(),
    "workers": Workers(
        [
            WorkerReport(
                WORKER,
                WorkerState.ALIVE,
                0.25,
                "host",
                4711,
                "0.1.0",
                1733200000.0,
                ["default", "email"],
                ["gpu"],
                ["add", "mail.send"],
                40,
                50,
                4,
                1,
                [RunningAttempt(LEASES[0], 12.5, ADD, "add", "default", 1)],
                Load(3.5, 4, 524288000, 0.25),
            )
        ]
    ),
    "list-quotas": ListQuotas(Scope.KEY),
    "set-quota": SetQuota(Scope.QUEUE, "email", weight=3.0, rate=Rate(90, 60.0), concurrency=None),
    "quotas": Quotas([Quota(scope=Scope.QUEUE, name="email", weight=3.0, rate=Rate(90, 60.0), ageing=60.0)]),
    "quotas-unknown": Quotas([Quota(scope=Scope.QUEUE, name="emial", paused=True, known=False)]),
    "quotas-refused": Quotas(error="only operators may do this", forbidden=True),
    "rearrange": Rearrange(Filter(queue="email", labels={"campaign": "spring"}), queue="bulk"),
    "rearranged": Rearranged([ADD, MAIL], 1234),
    "command": Command("kZ0a1b2c3d4e5f6g", ControlVerb.SLOTS, ["host-"], 5.0, 20),
    "command-answers": CommandAnswers(
        [CommandAnswer(WORKER, Raw(b'{"capacity":20,"slots":20,"before":50}'), after=0.004)], ["host-4712-77aa"], True
    ),
    "list-changes": ListChanges(50, 1234),
    "changes": Changes(
        [Change(1733200000.0, "anna", "quota", "email", "queue: rate none -> 90/m, weight 1 -> 3")], 1233
    ),
    "change": ChangeMade(Change(1733200000.0, "anna", "quota", "email", "queue: rate none -> 90/m, weight 1 -> 3")),
    "submission-with-requirements": Submission(
        [TaskMessage(ADD, "train", options=TaskOptions(key="customer-7", requires=("gpu",)))]
    ),
}
"""By the name of the golden file, without its suffix."""
