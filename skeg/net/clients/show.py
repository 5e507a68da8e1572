"""How replies are shown to people: as the command line of Redis does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skeg.errors import ServerError
from skeg.net.resp.encode import Status, double_text
from skeg.net.resp.lines import Scalar
from skeg.net.resp.replies import ReplyParser

_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x07: "\\a", 0x08: "\\b"}


class ShownParser(ReplyParser):
    """Tells texts such as OK, which are shown as they are, from strings."""

    def _take(self, marker: int, value: Scalar) -> None:
        if marker == 0x2B and isinstance(value, bytes):  # +
            self._add(Status(value.decode()))
        else:
            super()._take(marker, value)


def shown(value: Any) -> str:
    """A reply, on as many lines as it takes.

    Parameters
    ----------
    value : object
        From `ShownParser`.
    """
    if isinstance(value, bytes):
        return _quoted(value)
    if isinstance(value, Status):
        return value.text
    if value is None:
        return "(nil)"
    if isinstance(value, ServerError):
        return f"(error) {value}"
    if isinstance(value, bool):
        return "(true)" if value else "(false)"
    if isinstance(value, float):
        return f"(double) {double_text(value)}"
    if isinstance(value, list):
        return _numbered([shown(item) for item in value], ") ") or "(empty array)"
    if isinstance(value, dict):
        return _numbered([_pair(shown(key), shown(item)) for key, item in value.items()], "# ") or "(empty hash)"
    return f"(integer) {value}"


def _numbered(items: Sequence[str], mark: str) -> str:
    width = len(str(len(items)))
    return "\n".join(f"{i:>{width}}{mark}{_indented(item, width + len(mark))}" for i, item in enumerate(items, 1))


def _pair(key: str, item: str) -> str:
    if "\n" in item:
        item = _indented(f"\n{item}", 3)
    return f"{key} => {item}"


def _indented(text: str, width: int) -> str:
    return text.replace("\n", "\n" + " " * width)


def _quoted(data: bytes) -> str:
    return '"' + "".join(_ESCAPES.get(b) or (chr(b) if 0x20 <= b < 0x7F else f"\\x{b:02x}") for b in data) + '"'
