"""The zygote ends quietly with its worker."""

import socket

from worker_service.results import Limits
from worker_service.runtimes.zygote import STATUS, Zygote


def test_a_worker_that_has_gone_without_reading_everything_is_gone() -> None:
    worker, zygote = socket.socketpair()
    zygote.sendall(STATUS.pack(1, 0, 0))
    worker.close()  # with something unread, which resets the connection
    with zygote:
        Zygote(zygote, {}, Limits(1000, 32)).serve()
