"""Events reach their subscribers, and subscribers cannot harm the emitter."""

import logging

import pytest

from common.events import BrokerConnected, BrokerLost
from common.telemetry import Telemetry

UP = BrokerConnected("scheduler.publish", "4.3.5")
LOST = BrokerLost("scheduler.publish", "cut")


def test_an_event_reaches_the_subscribers_of_its_class_in_their_order() -> None:
    telemetry = Telemetry()
    seen: list[tuple[str, object]] = []
    telemetry.on(BrokerConnected, lambda event: seen.append(("first", event)))
    telemetry.on(BrokerConnected, lambda event: seen.append(("second", event)))
    telemetry.on(BrokerLost, lambda event: seen.append(("lost", event)))
    telemetry.emit(UP)
    assert seen == [("first", UP), ("second", UP)]


def test_an_event_without_subscribers_is_dropped() -> None:
    Telemetry().emit(UP)


def test_off_ends_a_subscription() -> None:
    telemetry = Telemetry()
    seen: list[object] = []
    telemetry.on(BrokerLost, seen.append)
    telemetry.off(BrokerLost, seen.append)
    telemetry.off(BrokerLost, seen.append)
    telemetry.emit(LOST)
    assert seen == []


def test_a_subscriber_that_raises_is_logged_once_and_breaks_nobody(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = Telemetry()
    seen: list[object] = []

    def broken(event: BrokerLost) -> None:
        raise ZeroDivisionError

    telemetry.on(BrokerLost, broken)
    telemetry.on(BrokerLost, seen.append)
    with caplog.at_level(logging.ERROR):
        telemetry.emit(LOST)
        telemetry.emit(LOST)
    assert seen == [LOST, LOST]
    assert [record.getMessage() for record in caplog.records] == ["a telemetry subscriber failed"]


def test_what_is_no_exception_of_the_subscriber_passes_through() -> None:
    telemetry = Telemetry()

    def interrupted(event: BrokerLost) -> None:
        raise KeyboardInterrupt

    telemetry.on(BrokerLost, interrupted)
    with pytest.raises(KeyboardInterrupt):
        telemetry.emit(LOST)
