"""Quota keeper: answers which quotas there are, and changes them for operators: stored first, in effect at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from common.administration import Change, ListQuotas, Quotas, SetQuota
from common.failpoints import reached
from common.quotas import Quota, Scope
from common.wire import Message, QueueName, TaskName, decode
from scheduler_service import operations
from scheduler_service.asking import FORBIDDEN, Asker
from scheduler_service.storage.store import Store

_NAMES: Final[dict[Scope, Any]] = {Scope.QUEUE: QueueName, Scope.TASK: TaskName}
_CALLED: Final = {Scope.QUEUE: "queue", Scope.TASK: "task function"}


class QuotaKeeper:
    """Answers `ListQuotas` and `SetQuota`.

    Args:
        store: where quotas are.
        effect: given each quota that was changed, after it was committed.
        announce: tells what was changed.
        knows: whether a task or a live worker has named this queue.
    """

    def __init__(
        self,
        store: Store,
        *,
        effect: Callable[[Quota], None],
        announce: Callable[[Change], None],
        knows: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._knows = knows
        self._effect = effect
        self._announce = announce

    async def list_quotas(self, asker: Asker, body: bytes) -> Message:
        """Every quota that was set; those of keys, which may name customers, only to operators."""
        ask = decode(ListQuotas, body)
        quotas = await self._store.run(operations.list_quotas, ask.scope)
        shown = (quota for quota in quotas if asker.administrator or quota.scope is not Scope.KEY)
        return Quotas([self._told(quota) for quota in shown])

    async def set_quota(self, asker: Asker, body: bytes) -> Message:
        """Change one quota; what is left out stays as it is."""
        ask = decode(SetQuota, body)
        if not asker.administrator:
            return Quotas(error=FORBIDDEN, forbidden=True)
        if fault := _fault(ask):
            return Quotas(error=fault)
        await reached("quota_keeper.before_commit")
        changed = await self._store.run(operations.set_quota, ask, asker.user, time.time())
        await reached("quota_keeper.after_commit")
        # Also when it was so already: an answer of the store that was lost must not keep a change from its effect.
        self._effect(changed.quota)
        if changed.change is not None:
            self._announce(changed.change)
        return Quotas([self._told(changed.quota)])

    def _told(self, quota: Quota) -> Quota:
        return replace(quota, known=quota.scope is not Scope.QUEUE or self._knows(quota.name))


def _fault(ask: SetQuota) -> str:
    try:
        msgspec.convert(ask.name, _NAMES.get(ask.scope, str))
    except msgspec.ValidationError:
        return f"{ask.name!r} cannot be the name of a {_CALLED[ask.scope]}, so nothing would ever be limited by it"
    if ask.scope is not Scope.QUEUE and isinstance(ask.ageing, float):
        return f"ageing is about the priorities of a queue; a {ask.scope} has none"
    if ask.scope is Scope.TASK and isinstance(ask.weight, float):
        return "queues and keys have weights; a task function has none"
    return ""
