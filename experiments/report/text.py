"""Words from configuration and data, made safe to show: as text, in HTML and inside a script's data."""

from __future__ import annotations

import html
import json
import unicodedata
from typing import Any

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_SCRIPT_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"})


def visible(text: str) -> str:
    r"""The text with every character that cannot be seen, or that turns its neighbours round, spelt as its code.

    >>> print(visible("a\tb\u202ec"))
    a\u0009b\u202ec
    """
    return "".join(_spelt(char) if unicodedata.category(char) in _UNSEEN else char for char in text)


def escaped(text: str) -> str:
    """Visible text for HTML, elements and attributes alike."""
    return html.escape(visible(text), quote=True)


def script_json(value: Any) -> str:
    """Compact JSON that no browser takes for the end of its script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_SCRIPT_ESCAPES)


def _spelt(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


class Words:
    """Distinct words and their places: a table names a word by its place."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._shown: dict[str, str] = {}

    def place(self, word: str | None) -> int | None:
        """Where the word stands, made visible; None for no word."""
        if word is None:
            return None
        if word not in self._shown:
            self._shown[word] = visible(word)
        return self._places.setdefault(self._shown[word], len(self._places))

    @property
    def known(self) -> list[str]:
        """The words in the order of their places."""
        return list(self._places)
