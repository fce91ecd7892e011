"""Breaks things as the plan says, and mends them."""

from collections.abc import Callable, Mapping

from deploy.local import RabbitNode
from tests.chaos.plan import Fault
from tests.support.proxy import Proxy
from tests.support.services import ServiceProcess


class Faults:
    """The faults of one run.

    Args:
        node: the broker.
        parties: the processes that can be killed and frozen.
        proxies: the way to the broker of each party, and of the client.
    """

    def __init__(self, node: RabbitNode, parties: Mapping[str, ServiceProcess], proxies: Mapping[str, Proxy]) -> None:
        self._node = node
        self._parties = parties
        self._proxies = proxies

    def meets(self, fault: Fault) -> bool:
        """Whether there is such a party in this system."""
        return fault.target in ("broker", "client") or fault.target in self._parties

    def begin(self, fault: Fault) -> None:
        """Let it happen; one that lasts goes on until `end`."""
        self._actions(fault)[0]()

    def end(self, fault: Fault) -> None:
        """Mend it."""
        self._actions(fault)[1]()

    def mend_everything(self) -> None:
        """See to it that nothing is broken any more, however the run went."""
        if self._node.running:
            self._node.resume()
            self._node.undo_faults()
        else:
            self._node.start()
        for proxy in self._proxies.values():
            proxy.heal()
        for party in self._parties.values():
            party.resume()

    def _actions(self, fault: Fault) -> tuple[Callable[[], None], Callable[[], None]]:
        if fault.target == "broker":
            return self._at_broker(fault.kind)
        if fault.kind in ("kill", "restart", "freeze"):
            return self._at_party(self._parties[fault.target], fault.kind)
        proxy = self._proxies[fault.target]
        begin: dict[str, Callable[[], None]] = {
            "cut": proxy.cut,
            "mute": lambda: proxy.drop("up"),
            "deafen": lambda: proxy.drop("down"),
            "stall": proxy.stall,
        }
        return begin[fault.kind], proxy.heal

    @staticmethod
    def _at_party(party: ServiceProcess, kind: str) -> tuple[Callable[[], None], Callable[[], None]]:
        actions: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "kill": (party.kill, _nothing),
            "restart": (party.terminate, _nothing),  # it is started again when it has ended
            "freeze": (party.pause, party.resume),
        }
        return actions[kind]

    def _at_broker(self, kind: str) -> tuple[Callable[[], None], Callable[[], None]]:
        node = self._node
        actions: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "kill": (self._kill_broker, _nothing),
            "restart": (node.restart, _nothing),
            "freeze": (node.pause, node.resume),
            "close": (node.close_all_connections, _nothing),
            "alarm": (lambda: node.set_memory_alarm(True), lambda: node.set_memory_alarm(False)),
        }
        return actions[kind]

    def _kill_broker(self) -> None:
        self._node.flush_metadata()
        self._node.kill()
        self._node.start()


def _nothing() -> None:
    """It is over already."""
