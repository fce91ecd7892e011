"""The same load and the same faults, by a seed, on one system after the other, and then the count.

Exit code 0: nothing is wrong with Warren. What is wrong with the others is in the score, and fails nothing.
"""

import argparse
import logging
import secrets
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.chaos.plan import plan
from tests.chaos.report import Screen
from tests.chaos.run import run
from tests.chaos.score import Score
from tests.chaos.systems import Site, System
from tests.chaos.systems.celery import Celery
from tests.chaos.systems.dramatiq import Dramatiq
from tests.chaos.systems.warren import Warren

SYSTEMS: dict[str, Callable[[Site], System]] = {"warren": Warren, "celery": Celery, "dramatiq": Dramatiq}


def main() -> int:
    """Run the systems one after the other and print the score."""
    options = _options()
    for name in ("pika", "amqp", "kombu", "celery", "dramatiq"):  # they tell every refused connection at length
        logging.getLogger(name).setLevel(logging.CRITICAL)
    screen = Screen()
    screen.title(f"seed {options.seed}: {options.tasks} tasks in {options.minutes:g} minutes")
    if options.plan:
        for fault in plan(options.seed, options.minutes):
            screen.fault(fault.at, str(fault), met=True)
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="warren-chaos-"))
    screen.phase(f"logs, stores and effects are kept in {folder}")
    scores: list[Score] = []
    for name in options.systems:
        screen.title(name)
        scores.append(
            run(
                SYSTEMS[name],
                folder / name,
                seed=options.seed,
                tasks=options.tasks,
                minutes=options.minutes,
                watch=screen,
            )
        )
        if options.json:
            options.json.write_bytes(msgspec.json.format(msgspec.json.encode(scores)) + b"\n")
    screen.scores(scores)
    failed = [score for name, score in zip(options.systems, scores, strict=True) if name == "warren" and score.problems]
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of load and faults (default: a new one)")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=10.0, help="of load and faults")
    parser.add_argument("--systems", type=_systems, default=["warren"], help=f"of {','.join(SYSTEMS)}, with commas")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    parser.add_argument("--folder", type=Path, help="for logs, stores and effects, by default a new one")
    parser.add_argument("--plan", action="store_true", help="print the plan of faults and end")
    return parser.parse_args()


def _systems(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SYSTEMS]:
        raise argparse.ArgumentTypeError(f"no such system: {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
