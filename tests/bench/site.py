"""What every process of a run must know: where broker and Redis are, and under which names to work."""

import os
from pathlib import Path
from typing import Self

import msgspec

VARIABLE = "WARREN_BENCH_SITE"


class Site(msgspec.Struct, frozen=True):
    """The surroundings of one system under measurement, handed to its processes as one environment variable.

    Args:
        amqp_url: the broker of this run, the same one for every system.
        redis_url: a private Redis without the database number, or "" where there is none.
        run: a word that makes queue names unique, so that runs can share a broker.
        folder: where services write logs and data; on the disk whose fsync time is reported.
        slots: tasks that a worker may run at once, for the systems whose slots are cheap (coroutines).
        commit_delay: seconds added to each commit of Warren's store.
        http_port: where Warren's scheduler serves its metrics.
    """

    amqp_url: str
    redis_url: str
    run: str
    folder: str
    slots: int
    commit_delay: float = 0.0
    http_port: int = 0

    @classmethod
    def from_environment(cls) -> Self:
        """Return the site that the parent process has described.

        Raises:
            RuntimeError: this process was not started by the benchmark.
        """
        text = os.environ.get(VARIABLE)
        if text is None:
            raise RuntimeError(f"{VARIABLE} is not set: this module is only loaded by `python -m tests.bench`")
        return msgspec.json.decode(text, type=cls)

    def environment(self) -> dict[str, str]:
        """Return this process's environment with the site added."""
        return {**os.environ, VARIABLE: msgspec.json.encode(self).decode()}

    def file(self, name: str) -> Path:
        """Return the path of a file of this run."""
        return Path(self.folder) / name
