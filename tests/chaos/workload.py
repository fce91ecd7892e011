"""What is submitted: a task for each key, the same ones for the same seed, whatever the system."""

import random
from enum import StrEnum

import msgspec


class Runtime(StrEnum):
    """Where a system that has the choice runs a task."""

    COROUTINE = "coroutine"
    THREAD = "thread"
    PROCESS = "process"


class Job(msgspec.Struct, frozen=True):
    """One task.

    Attributes:
        key: its number, from 0.
        runtime: where it runs.
        seconds: how long it takes.
        failures: how many attempts raise before one succeeds.
        doomed: it raises what is not to be retried.
        priority: 0 to 9.
        delay: whole seconds until it is due; Celery's delayed queues know no parts of seconds.
        cancel: the client asks for it to be cancelled, a moment after its confirm.
    """

    key: int
    runtime: Runtime
    seconds: float
    failures: int = 0
    doomed: bool = False
    priority: int = 4
    delay: int = 0
    cancel: bool = False


def answer(key: int) -> int:
    """What the task with this key has to result in; computed by the task, and again by the checker."""
    return key * key % 1_000_003


def job_of(seed: str, key: int) -> Job:
    """The task with this key.

    80 % take up to 20 ms, 18 % up to half a second, 2 % one to three seconds: 0.1 s on average.
    """
    chance = random.Random(f"{seed}/{key}")
    draw = chance.random()
    if draw < 0.8:
        seconds = chance.choice((0.0, chance.uniform(0.0, 0.02)))
    else:
        seconds = chance.uniform(0.02, 0.5) if draw < 0.98 else chance.uniform(1.0, 3.0)
    runtime = chance.choices(list(Runtime), (70, 25, 5))[0]
    priority = chance.choices((0, 4, 9), (10, 80, 10))[0]
    fate = chance.random()
    if fate < 0.05:
        return Job(key, runtime, seconds, failures=chance.randint(1, 3), priority=priority)
    if fate < 0.06:
        return Job(key, runtime, seconds, doomed=True, priority=priority)
    if fate < 0.08:
        return Job(key, runtime, seconds, priority=priority, delay=8, cancel=True)
    if fate < 0.09:
        return Job(key, runtime, 2.0, priority=priority, cancel=True)
    if fate < 0.14:
        return Job(key, runtime, seconds, priority=priority, delay=chance.randint(1, 8))
    return Job(key, runtime, seconds, priority=priority)
