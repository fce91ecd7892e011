"""Every error that Warren raises, in one tree.

::

    WarrenError
    ├── SettingsError           a setting is missing or wrong; the message lists every fault
    ├── InvalidTask             a task that cannot be submitted as it is (name, queue, size, arguments)
    ├── InvalidFilter           a question about tasks that cannot be asked as it is
    ├── SubmissionError         a submission that was not confirmed
    │   ├── SubmissionRefused   the broker refused it: it did not happen
    │   └── SubmissionUnknown   no answer: it may have happened; holds the ids, safe to submit again with them
    ├── TaskError               about one task's outcome
    │   ├── TaskFailed          the task failed; holds type, message and traceback of the remote error
    │   ├── TaskCancelled       the task was cancelled
    │   ├── TaskExpired         the task was not started in time
    │   └── UnknownTask         the scheduler has no task with this id
    ├── Retry                   raised by a task function: run me again
    ├── Fail                    raised by a task function: do not run me again
    ├── TaskTimeout             raised in a task function whose timeout is over
    ├── NoTask                  `ctx` was used where no task runs
    ├── ResultTimeout           the wait ended; the task goes on
    ├── HarnessError            the harness for tests cannot start or go on
    ├── ClientClosed            the client was closed while this call was waiting
    ├── BrokerError             about the connection to RabbitMQ
    │   ├── ConnectionLost      the connection ended under an operation; its outcome is unknown
    │   ├── BrokerRefused       the broker answered with an error, such as 403, 404, 405 or 406
    │   ├── PublishRefused      nacked or unroutable: it is in no queue
    │   └── PublishUnknown      no confirm in time: it may have happened
    ├── StoreError              about the database
    │   ├── StoreUnavailable    locked, full or away: nothing was written, try again
    │   ├── StoreRefused        the database refused a value; it will refuse it again
    │   │   └── StoreConflict   a value that has to be unique is stored already
    │   └── StoreOutOfDate      the schema is older or newer than this program
    ├── WireError               a message that cannot be decoded; the text says where
    └── NotOurPackage           another distribution's `common` package was imported
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from common.options import LONGEST


class WarrenError(Exception):
    """Anything that Warren raises on purpose. It can be copied and pickled, so it gets out of a pool's process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[WarrenError], args: tuple[Any, ...], attributes: dict[str, Any]) -> WarrenError:
    """Make an error again, without the arguments of its class."""
    error = kind.__new__(kind, *args)
    error.args = args  # those that are an `OSError`, too, have them from `__init__` only
    error.__dict__.update(attributes)
    return error


class SettingsError(WarrenError):
    """One or more settings are wrong.

    Args:
        faults: one sentence for each fault, naming the setting, the value and what is expected.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("wrong settings:\n" + "\n".join(f"  - {fault}" for fault in self.faults))


class InvalidTask(WarrenError, ValueError):
    """The task cannot be submitted as it is; nothing was sent."""


class InvalidFilter(WarrenError, ValueError):
    """Which tasks are meant cannot be said like this; nothing was asked."""


class InvalidQuota(WarrenError, ValueError):
    """A weight, rate or concurrency cannot be said like this; nothing was changed."""


class NotAllowed(WarrenError):
    """Only operators may do this (the scheduler's setting `operators`); nothing was changed."""


class SubmissionError(WarrenError):
    """A submission was not confirmed.

    Attributes:
        ids: the task ids of the submission, in order.
        task_id: the first of them.
    """

    def __init__(self, message: str, ids: Sequence[str]) -> None:
        self.ids = tuple(ids)
        super().__init__(message)

    @property
    def task_id(self) -> str:
        """The first of `ids`: the task's, when one was submitted."""
        return self.ids[0] if self.ids else ""


class SubmissionRefused(SubmissionError):
    """The broker refused the submission: none of its tasks was taken."""


class SubmissionUnknown(SubmissionError):
    """No confirm arrived: the tasks may have been taken or not.

    Submit them again with ``options(task_id=...)``: the same id with the same content is stored once.
    """


class TaskError(WarrenError):
    """About the outcome of one task.

    Attributes:
        task_id: the task's id.
    """

    def __init__(self, message: str, task_id: str) -> None:
        self.task_id = task_id
        super().__init__(message)


class TaskFailed(TaskError):
    """The task failed.

    Attributes:
        kind: why, as one of `common.wire.ErrorKind`.
        type: the name of the remote exception's class, such as ``ValueError``. Text only, never imported.
        message: the remote exception's text.
        traceback: the remote traceback as text, or an empty string.
    """

    def __init__(self, task_id: str, kind: str, type: str, message: str, traceback: str) -> None:  # noqa: A002
        self.kind = kind
        self.type = type
        self.message = message
        self.traceback = traceback
        text = f"task {task_id} failed ({kind}): {type}: {message}"
        super().__init__(f"{text}\n\n{traceback}" if traceback else text, task_id)


class TaskCancelled(TaskError):
    """The task was cancelled before it succeeded or failed."""


class TaskExpired(TaskError):
    """The task was not started by the time it was allowed to."""


class UnknownTask(TaskError):
    """The scheduler has no task with this id (never submitted, or removed after its retention)."""


class Retry(WarrenError):
    """A task function raises this to be run again, as often as `retries` says (10 times when nobody says).

    Args:
        after: seconds to wait, or a `timedelta`; None for what the task's backoff says.
        message: why; stored with the attempt.

    Raises:
        ValueError: `after` is negative or no number.

    Example::

        raise Retry(after=30) from error
    """

    after: float | None = None

    def __init__(self, after: float | timedelta | None = None, message: str = "") -> None:
        seconds = after.total_seconds() if isinstance(after, timedelta) else after
        if seconds is not None and not (isinstance(seconds, (int, float)) and 0 <= seconds <= LONGEST):
            raise ValueError(f"after is a number of seconds from 0 to {LONGEST:.0f} or a timedelta, not {after!r}")
        self.after = None if seconds is None else float(seconds)
        super().__init__(message or f"asked to be run again{'' if seconds is None else f' after {seconds:g} s'}")


class Fail(WarrenError):
    """A task function raises this to fail for good: whatever `retries` says, it is not run again.

    Example::

        raise Fail("there is no customer 7")
    """


class TaskTimeout(WarrenError):
    """The task's `timeout` is over. Raised once, in the task function, which may clean up, or return after all.

    In a coroutine function it is raised at an ``await``, and is an `asyncio.CancelledError` too, so that locks and
    task groups treat it as one. In a thread it is raised between two steps of Python code: not inside a call into C
    that blocks (``time.sleep``, a socket without a timeout), but after it. In a process it ends such calls too.
    """

    def __init__(self, message: str = "the task's timeout is over") -> None:
        super().__init__(message)


class NoTask(WarrenError, LookupError):
    """`ctx` was used outside of a running task function."""


class HarnessError(WarrenError, RuntimeError):
    """`common.testing` cannot start here, or waits for what never comes; the text says why."""


class ResultTimeout(WarrenError, TimeoutError):
    """The wait for a result ended. The task goes on; ask again by its id.

    Attributes:
        task_id: the task's id; empty when the wait was for many.
    """

    def __init__(self, message: str, task_id: str = "") -> None:
        self.task_id = task_id
        super().__init__(message)


class ClientClosed(WarrenError):
    """The client was closed while this call was waiting."""


class BrokerError(WarrenError):
    """About the connection to RabbitMQ."""


class ConnectionLost(BrokerError):
    """The connection ended under an operation; the operation's outcome is unknown."""


class BrokerRefused(BrokerError):
    """The broker answered with an error and closed the channel.

    Attributes:
        code: the AMQP reply code (AMQP 0-9-1 section 1.2), such as 403 access refused, 404 not found,
            405 resource locked, 406 precondition failed.
    """

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(f"{code} {message}")


class PublishRefused(BrokerError):
    """The broker did not take the message: nacked or unroutable. It is in no queue.

    Attributes:
        unroutable: True when no queue is bound for it (basic.return, AMQP 0-9-1 section 1.8.3.3).
    """

    def __init__(self, message: str, *, unroutable: bool = False) -> None:
        self.unroutable = unroutable
        super().__init__(message)


class PublishUnknown(BrokerError):
    """No confirm arrived in time: the message may be in the queue or may still arrive there."""


class StoreError(WarrenError):
    """About the database."""


class StoreUnavailable(StoreError):
    """The database is locked, full or away. Nothing was written; the same call may succeed later."""


class StoreRefused(StoreError):
    """The database refused a value. Nothing was written, and the same call fails again."""


class StoreConflict(StoreRefused):
    """A value that has to be unique is stored already. Nothing was written."""


class StoreOutOfDate(StoreError):
    """The database's schema is not the one this program was written for; run ``warren migrate``."""


class WireError(WarrenError, ValueError):
    """A message cannot be decoded. The text says what was wrong and where."""


class NotOurPackage(WarrenError, ImportError):
    """`common` was imported from another distribution than Warren."""
