"""How the policy of an attempt limits its run."""

from __future__ import annotations

import time

from common.options import Policy


def deadline(policy: Policy) -> float | None:
    """When a run that starts now is to end, seconds since the epoch: what `ctx.deadline` says."""
    limits = [seconds for seconds in (policy.timeout, policy.hard_timeout) if seconds is not None]
    return time.time() + min(limits) if limits else None


def interruptible(policy: Policy) -> bool:
    """Whether `TaskTimeout` may have to be raised in it."""
    return policy.timeout is not None or policy.hard_timeout is not None
