"""`docs/protocol.md` says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from common.topology import REQUEST_TTL_MS, Topology
from common.wire import MAX_PACK_ITEMS, ErrorKind, Message, ReturnReason
from scheduler_service.settings import SchedulerSettings
from tests.support.golden import GOLDEN

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_its_json_is_that_of_the_golden_files() -> None:
    shown = dict(re.findall(r"<!-- golden: (\S+) -->\n```json\n(.*?)```", PAGE.read_text(), re.DOTALL))
    assert shown == {path.name: path.read_text() for path in GOLDEN.iterdir()}
    assert len(shown) == PAGE.read_text().count("```json")


def test_it_names_every_message_exchange_and_word() -> None:
    text = PAGE.read_text()
    topology = Topology()
    names = [
        *{kind.TYPE for kind in Message.__subclasses__()},
        *(exchange.name for exchange in topology.exchanges()),
        *(queue.name for queue in topology.durable_queues()),
        *ErrorKind,
        *ReturnReason,
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_its_limits_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    settings = SchedulerSettings()
    assert f"at most {settings.max_task_bytes // 1024} KiB together" in text
    assert f"at most {settings.max_depth} deep" in text
    assert f"messages live {REQUEST_TTL_MS // 1000} s" in text
    assert f"at most {MAX_PACK_ITEMS:,} of them" in text
