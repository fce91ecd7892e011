"""What breaks when: the same plan for the same seed and length, whatever the machine and the system.

The kinds come from a deck that is shuffled anew each time it is used up, so that a long run has each of them as often
as it is worth, and a short one still has many. Faults overlap, but not two at the same target.
"""

import random
from typing import Final

import msgspec

WORKERS: Final = ("worker-0", "worker-1", "worker-2")
PAUSE: Final = 8.0
"""Seconds from one fault to the next, on average."""
_REST: Final = 3.0  # seconds that a target has to itself after a fault
_FIRST: Final = 2.0  # seconds


class Fault(msgspec.Struct, frozen=True):
    """One fault.

    Attributes:
        at: seconds after the start.
        kind: what happens, see `KINDS`.
        target: to whom.
        seconds: how long it lasts; 0 for what is over at once.
    """

    at: float
    kind: str
    target: str
    seconds: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.0f} s" if self.seconds else ""
        return f"{KINDS[self.kind].format(target=self.target)}{lasting}"


KINDS: Final = {
    "kill": "kill {target}",
    "restart": "restart {target} in good order",
    "freeze": "freeze {target}",
    "cut": "cut {target} off",
    "mute": "swallow what {target} says",
    "deafen": "swallow what {target} is told",
    "stall": "hold back what {target} says and is told",
    "close": "close every connection of {target}",
    "alarm": "memory alarm at {target}",
}
"""Each kind in words."""

_DECK: Final = (
    *(("kill", "worker", 0.0, 0.0),) * 5,
    *(("kill", "scheduler", 0.0, 0.0),) * 3,
    *(("kill", "broker", 0.0, 0.0),) * 2,
    ("restart", "broker", 0.0, 0.0),
    *(("restart", "worker", 0.0, 0.0),) * 2,
    ("restart", "scheduler", 0.0, 0.0),
    ("freeze", "worker", 1.0, 8.0),
    ("freeze", "worker", 12.0, 25.0),
    ("freeze", "scheduler", 1.0, 20.0),
    ("freeze", "broker", 1.0, 15.0),
    ("cut", "worker", 1.0, 25.0),
    ("cut", "worker", 0.0, 1.0),
    ("cut", "scheduler", 1.0, 10.0),
    ("cut", "client", 1.0, 5.0),
    ("mute", "worker", 10.0, 25.0),
    ("deafen", "worker", 10.0, 25.0),
    ("mute", "scheduler", 5.0, 20.0),
    ("deafen", "scheduler", 5.0, 20.0),
    ("stall", "worker", 2.0, 20.0),
    ("stall", "scheduler", 2.0, 15.0),
    ("close", "broker", 0.0, 0.0),
    ("alarm", "broker", 1.0, 10.0),
)


def plan(seed: str, minutes: float) -> list[Fault]:
    """The faults of a run, in the order of their start; all of them are over after `minutes`."""
    chance = random.Random(f"plan/{seed}")
    end = minutes * 60.0
    free_at: dict[str, float] = {}
    faults: list[Fault] = []
    deck: list[tuple[str, str, float, float]] = []
    at = _FIRST
    while at < end:
        if not deck:
            deck = list(_DECK)
            chance.shuffle(deck)
        kind, role, least, most = deck.pop()
        target = chance.choice(WORKERS) if role == "worker" else role
        begin = max(at, free_at.get(target, 0.0))
        seconds = chance.uniform(least, most)
        if begin + seconds < end:
            faults.append(Fault(round(begin, 1), kind, target, round(seconds, 1)))
            free_at[target] = begin + seconds + _REST
        at += chance.uniform(0.0, 2.0 * PAUSE)
    return sorted(faults, key=lambda fault: fault.at)
