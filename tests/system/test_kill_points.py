"""Processes die at each named point of the hot paths, under load."""

from common.tasks import Call
from tests.support.journal import Expected
from tests.system.conftest import Note, StartCluster


def squares(key: int) -> tuple[Call[int], Expected]:
    name = "square_in_thread" if key % 5 == 0 else "square"
    return Call(name, (key, 0.002 * (key % 4))), Expected(key, key * key)


def test_no_fault(start_cluster: StartCluster, note: Note) -> None:
    cluster = start_cluster()
    load = cluster.load(squares, 300)
    load.join()
    note(cluster.assert_nothing_lost())
