"""Submit tasks from ordinary code, one and many, and handle a failure.

Needs a scheduler and a worker with `examples.tasks`; see there.
"""

from common import Client, TaskFailed, call
from examples.tasks import add, digest, divide


def main() -> None:
    """Submit, wait, print."""
    with Client() as client:
        handle = client.submit(add, 2, 3)
        print(f"{handle.id}: 2 + 3 = {handle.result(timeout=10)}")

        handles = client.submit_many(call(digest, word, rounds=10_000) for word in ("warren", "rabbit", "queue"))
        for done in client.as_completed(handles, timeout=10):
            print(f"{done.id}: {done.result()[:16]}...")

        try:
            client.submit(divide, 1, 0).result(timeout=10)
        except TaskFailed as error:
            print(f"{error.task_id}: {error.type}: {error.message}")


if __name__ == "__main__":
    main()
