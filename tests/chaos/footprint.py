"""Memory and file descriptors of services, before and after."""

import contextlib
from collections.abc import Mapping

import msgspec
import psutil

from tests.support.services import ServiceProcess

MORE_MEMORY = 100.0
"""MB that a service, with its child processes, may have more than after the warm-up."""
MORE_PROCESSES = 2
"""Child processes that a service may have more than after the warm-up: pools grow with the work, up to their bound."""
MORE_FILES = 16
"""File descriptors that a service, and each child that it has more, may have open more than after the warm-up."""


class Footprint(msgspec.Struct, frozen=True):
    """What a service, with its child processes, holds.

    Attributes:
        memory: resident, MB; pages that several of its processes share count once for each.
        files: open file descriptors.
        processes: how many they are.
    """

    memory: float
    files: int
    processes: int


def footprints(parties: Mapping[str, ServiceProcess]) -> dict[str, Footprint]:
    """Measure each service."""
    return {name: _footprint(party.pid) for name, party in parties.items()}


def grown(before: Mapping[str, Footprint], after: Mapping[str, Footprint]) -> list[str]:
    """Say which services hold more than they may."""
    found = []
    for name, now in after.items():
        was = before[name]
        if now.memory > was.memory + MORE_MEMORY:
            found.append(f"{name} holds {now.memory:.0f} MB, and held {was.memory:.0f} MB")
        more = now.processes - was.processes
        if more > MORE_PROCESSES:
            found.append(f"{name} has {now.processes} processes, and had {was.processes}")
        if now.files > was.files + MORE_FILES * (1 + max(0, more)):
            found.append(f"{name} has {now.files} files open, and had {was.files}")
    return found


def _footprint(pid: int) -> Footprint:
    memory, files, count = 0, 0, 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                memory += process.memory_info().rss
                files += process.num_fds()
                count += 1
    return Footprint(memory / 1e6, files, count)
