"""How many tasks a worker may run under load."""

from hypothesis import given
from hypothesis import strategies as st

from worker_service.governor import QUIET_LOOKS, Governor

HIGH = 1000


def test_without_bounds_nothing_is_lowered() -> None:
    governor = Governor(50, 0, 0.0)
    assert not governor.look(10**12, 1000.0, 50)
    assert (governor.slots, governor.lowered) == (50, "")


def test_it_goes_down_step_by_step_to_one() -> None:
    governor = Governor(50, HIGH, 0.0)
    slots = []
    while governor.look(HIGH + 1, 0.0, governor.slots):
        slots.append(governor.slots)
    assert slots == [37, 27, 20, 15, 11, 8, 6, 4, 3, 2, 1]
    assert "memory_high" in governor.lowered


def test_it_is_lowered_by_what_runs_and_not_by_what_could() -> None:
    governor = Governor(50, 0, 0.5)
    assert governor.look(0, 0.6, 8)
    assert governor.slots == 6
    assert "loop_lag_high is 0.5 s" in governor.lowered


def test_it_comes_back_slowly_and_only_well_below_the_bound() -> None:
    governor = Governor(50, HIGH, 0.0)
    governor.look(HIGH + 1, 0.0, 8)
    for _ in range(10 * QUIET_LOOKS):
        assert not governor.look(int(HIGH * 0.95), 0.0, 6), "near the bound it stays as it is"
    for _ in range(QUIET_LOOKS - 1):
        assert not governor.look(0, 0.0, 6)
    assert governor.look(0, 0.0, 6)
    assert governor.slots == 11
    assert governor.lowered
    for _ in range(QUIET_LOOKS - 1):
        assert not governor.look(0, 0.0, 6)
    governor.look(int(HIGH * 0.95), 0.0, 6)
    for _ in range(QUIET_LOOKS - 1):
        assert not governor.look(0, 0.0, 6), "the quiet looks are counted anew"
    looks = 0
    while governor.slots < 50:
        looks += 1
        governor.look(0, 0.0, 6)
    assert looks <= 10 * QUIET_LOOKS
    assert not governor.lowered


def test_another_capacity() -> None:
    governor = Governor(50, HIGH, 0.0)
    governor.resize(60)
    assert (governor.slots, governor.capacity) == (60, 60)
    governor.look(HIGH + 1, 0.0, 40)
    governor.resize(100)
    assert (governor.slots, governor.capacity) == (30, 100)
    governor.resize(20)
    assert (governor.slots, governor.capacity, governor.lowered) == (20, 20, "")


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(0, 2 * HIGH), st.floats(0, 2), st.integers(0, 10_000)), max_size=100),
)
def test_there_is_always_one_slot_and_never_more_than_the_capacity(
    capacity: int, looks: list[tuple[int, float, int]]
) -> None:
    governor = Governor(capacity, HIGH, 1.0)
    for memory, lag, running in looks:
        before = governor.slots
        changed = governor.look(memory, lag, running)
        assert changed == (governor.slots != before)
        assert 1 <= governor.slots <= capacity
        assert bool(governor.lowered) == (governor.slots < capacity)
        if memory > HIGH or lag > 1.0:
            assert governor.slots <= before
