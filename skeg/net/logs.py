"""The log of a server: one line an event, as text or as JSON."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from typing import IO

_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(level: str, form: str, stream: IO[str] | None = None) -> None:
    """Write events of at least a level to a stream, stderr by default.

    Parameters
    ----------
    level : {"debug", "info", "warning", "error"}
    form : {"text", "json"}
    stream : text stream, optional
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    log = logging.getLogger("skeg")
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    log.propagate = False


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What was said beside the message."""
    fields = {name: value for name, value in vars(record).items() if name not in _PLAIN}
    if record.exc_info and record.exc_info[0] is not None:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


def _time(record: logging.LogRecord) -> str:
    moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


class _Text(logging.Formatter):
    """``time LEVEL logger: message name=value``, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_word(value)}" for name, value in _fields(record).items())
        return f"{_time(record)} {record.levelname:7} {record.name}: {_word(record.getMessage(), blank=True)}{fields}"


def _word(value: object, *, blank: bool = False) -> str:
    text = str(value)
    is_simple = text.isprintable() and (blank or " " not in text)
    return text if is_simple else json.dumps(text, ensure_ascii=False)


class _Json(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        return json.dumps(fields, ensure_ascii=False, default=str)
