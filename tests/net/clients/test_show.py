from __future__ import annotations

import pytest

from skeg.net.clients.show import ShownParser, shown
from skeg.net.limits import Limits


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"+OK\r\n", "OK"),
        (b"$2\r\nOK\r\n", '"OK"'),
        (b'$8\r\na"\\\n\r\t\0\xff\r\n', r'"a\"\\\n\r\t\x00\xff"'),
        (b":1\r\n", "(integer) 1"),
        (b"_\r\n", "(nil)"),
        (b"#t\r\n", "(true)"),
        (b"#f\r\n", "(false)"),
        (b",0.5\r\n", "(double) 0.5"),
        (b"-ERR no\r\n", "(error) ERR no"),
        (b"*0\r\n", "(empty array)"),
        (b"%0\r\n", "(empty hash)"),
        (b"*2\r\n:1\r\n*2\r\n+a\r\n_\r\n", "1) (integer) 1\n2) 1) a\n   2) (nil)"),
        (b"*10\r\n" + b":1\r\n" * 10, "\n".join(f"{i:>2}) (integer) 1" for i in range(1, 11))),
        (b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n", "1# a => (integer) 1\n2# b => 1) (integer) 2"),
        (b"%1\r\n+a\r\n*2\r\n:1\r\n:2\r\n", "1# a => \n      1) (integer) 1\n      2) (integer) 2"),
    ],
)
def test_replies_as_people_see_them(data, text):
    (value,) = ShownParser(Limits()).feed(data)
    assert text == shown(value)
