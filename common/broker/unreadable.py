"""A message whose properties cannot be read must not cost the connection.

AMQP's short strings may hold any bytes and its tables any depth (AMQP 0-9-1 section 4.2.5), and the broker passes on
what a publisher set. pamqp decodes them as UTF-8, and aiormq ends the connection when that fails. The message then
comes again on the next connection, and so on for ever: any client could stop a scheduler with one message. So the
properties of such a message are read as empty, with the fault in a header; whoever consumes it refuses and parks it,
as it does with every message that lacks its type.
"""

from __future__ import annotations

from typing import Final

import pamqp.frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

UNREADABLE: Final = "x-warren-unreadable"
"""The header that says what was wrong with the properties."""
_FIXED_BYTES: Final = 12
"""Class, weight and body size stand before the properties (AMQP 0-9-1 section 4.2.6.1)."""


def forgive() -> None:
    """Read unreadable properties as empty, in every connection of this process."""
    pamqp.frame._unmarshal_header_frame = _unmarshal_header_frame  # noqa: SLF001 - pamqp has no door for it


def _unmarshal_header_frame(frame_data: bytes) -> ContentHeader:
    header = ContentHeader()
    try:
        header.unmarshal(frame_data)
    except Exception as error:  # whatever a publisher can bring about: decoding, overflow, recursion
        if len(frame_data) < _FIXED_BYTES:
            raise
        header.properties = Basic.Properties(headers={UNREADABLE: f"{type(error).__name__}: {error}"[:500]})
    return header
