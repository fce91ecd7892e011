"""How many workers there should be, from what the scheduler recommends over time: up at once, down after a while."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """How far and how fast the number of workers may change.

    Attributes:
        least: workers that always stay.
        most: workers that this machine has room for.
        cooldown: seconds for which the recommendation has to be lower before workers are stopped.

    Raises:
        ValueError: they contradict each other.
    """

    least: int = 1
    most: int = 8
    cooldown: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most:
            raise ValueError(f"there cannot be at least {self.least} and at most {self.most} workers")
        if self.cooldown < 0:
            raise ValueError("the cool-down cannot be negative")


class Replicas:
    """Decides.

    More workers are wanted now; fewer only when the recommendation has been lower during the whole cool-down, and then
    as many as the most that was recommended in it. So a pause between two waves stops nobody, and a worker that was
    just started is not stopped again at once. What is not known counts as "as many as there are".

    Args:
        bounds: the limits.

    Example:
        >>> replicas = Replicas(Bounds(least=1, most=8, cooldown=60.0))
        >>> [replicas.decide(*seen) for seen in ((0.0, 1, 5), (30.0, 5, 2), (60.0, 5, 2), (61.0, 5, 2))]
        [5, 5, 5, 2]
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._wanted: list[tuple[float, int]] = []

    def decide(self, now: float, running: int, recommended: int | None) -> int:
        """Return how many there should be from now on.

        Args:
            now: seconds, never less than at the last call.
            running: workers that there are.
            recommended: by the scheduler; None when it could not be asked.
        """
        wanted = running if recommended is None else recommended
        if not self._wanted:  # what ran before anybody looked was wanted until now
            wanted = max(wanted, running)
        self._wanted = [each for each in self._wanted if now - each[0] <= self._bounds.cooldown]
        self._wanted.append((now, wanted))
        most_wanted = max(count for _, count in self._wanted)
        return max(self._bounds.least, min(self._bounds.most, most_wanted))
