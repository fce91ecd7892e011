"""README.md as its tests read it: blocks, links and commands, each as it stands there."""

from __future__ import annotations

import re
from typing import Final

from tests.support.services import ROOT

_TEXT: Final = (ROOT / "README.md").read_text()
_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\]\(([^)#]+)[^)]*\)")
_INLINE: Final = re.compile(r"`([^`\n]+)`")


def block(language: str, start: str) -> str:
    """Return the one fenced block of this language that begins with `start`."""
    found = [text for kind, text in _BLOCK.findall(_TEXT) if kind == language and text.startswith(start)]
    assert len(found) == 1, f"README.md has {len(found)} blocks of {language} that begin with {start!r}"
    return str(found[0])


def commands(start: str) -> list[str]:
    """Return the lines of the shell block that begins with `start`, with their comments."""
    return [line for line in block("sh", start).splitlines() if line.strip()]


def inline(start: str) -> list[str]:
    """Return the pieces of inline code that begin with `start`, outside of the blocks."""
    return [piece for piece in _INLINE.findall(_BLOCK.sub("", _TEXT)) if piece.startswith(start)]


def local_links() -> set[str]:
    """Return the paths of this repository that are linked to or shown."""
    return {link for link in _LINK.findall(_TEXT) if "://" not in link}


def make_targets() -> set[str]:
    """Return the targets of every `make` that is named, in blocks and in the text."""
    return set(re.findall(r"(?:^|`)make (\w[\w-]*)", _TEXT, re.MULTILINE))
