from __future__ import annotations

import io
import json
import logging
import re

import pytest

from skeg.net.logs import set_up


@pytest.fixture
def log():
    logger = logging.getLogger("skeg")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logging.getLogger("skeg.server")
    logger.handlers[:], logger.level, logger.propagate = before


def lines(stream):
    return stream.getvalue().splitlines()


def test_a_line_of_text_has_time_level_name_message_and_fields(log):
    stream = io.StringIO()
    set_up("info", "text", stream)
    log.info("connection %s", "closed", extra={"peer": "127.0.0.1:5", "reason": "a b"})
    log.debug("not seen")
    (line,) = lines(stream)
    moment, _, rest = line.partition(" ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", moment)
    assert 'INFO    skeg.server: connection closed peer=127.0.0.1:5 reason="a b"' == rest


def test_a_line_of_json_is_an_object(log):
    stream = io.StringIO()
    set_up("debug", "json", stream)
    log.warning("slow", extra={"seconds": 1.5})
    found = json.loads(lines(stream)[0])
    assert ("warning", "skeg.server", "slow", 1.5) == tuple(found[n] for n in ("level", "logger", "message", "seconds"))


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_that_is_logged_begins_a_line_of_its_own(log, form):
    stream = io.StringIO()
    set_up("info", form, stream)
    log.info("a\nb", extra={"field": "c\r\nd"})
    try:
        int("e\nf")
    except ValueError:
        log.exception("failed")
    assert 2 == len(lines(stream))
