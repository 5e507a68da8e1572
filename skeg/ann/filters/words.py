"""How words are told apart and typed: the rules that payloads in text form and filters share.

A word is typed by its looks. It is

* an int, if it is the shortest decimal spelling of an integer of 64 bits: ``0``, ``-7``, but not ``007``, ``+7``,
  ``-0``;
* a float, if it is a decimal with a point or an exponent, without needless zeros in front, and finite: ``1.5``,
  ``-0.0``, ``1e6``, but not ``.5``, ``1.``, ``00.5``, ``1e999``;
* else a string: ``true``, ``007``, ``2024-05-01``, ``99999999999999999999``.

So a post code keeps its zero, and no integer loses digits.
"""

from __future__ import annotations

import math
import re

INT_MIN, INT_MAX = -(2**63), 2**63 - 1

# The characters of the Unicode property White_Space, for a class of a regular expression. Python's own notion has
# four control characters more.
WHITESPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

RESERVED = frozenset({"AND", "OR", "NOT", "IN", "BETWEEN", "EXISTS"})

# A bare word of a filter: up to white space, a bracket, a comma or an operator; quotes inside are plain characters. A
# possessive repeat of more than single characters goes wrong before Python 3.11.5 (CPython issue 106052).
WORD = rf"(?!['\"])(?:[^{WHITESPACE}()=,<>!]|!(?!=))+"

_BLANKS = re.compile(f"[{WHITESPACE}]+")
_WORD = re.compile(WORD)
_INT = re.compile(r"0|-?[1-9][0-9]{0,18}")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)")


def split_words(text: str) -> list[str]:
    """Return the pieces of `text` between white space, none of them empty."""
    return [word for word in _BLANKS.split(text) if word]


def typed(word: str) -> int | float | str:
    """Return `word` as an int or a float if it looks like one, else unchanged."""
    if _INT.fullmatch(word):
        integer = int(word)
        return integer if INT_MIN <= integer <= INT_MAX else word
    if _FLOAT.fullmatch(word):
        number = float(word)
        return number if math.isfinite(number) else word
    return word


def keyword(word: str) -> str:
    """Return `word` in capitals if that is a reserved word, TRUE or FALSE, else an empty string."""
    # ASCII only: a dotless i has the capital I, but is no letter of IN.
    capitals = word.upper() if word.isascii() else ""
    return capitals if capitals in RESERVED or capitals in {"TRUE", "FALSE"} else ""


def is_utf8(text: str) -> bool:
    """Whether `text` has a form in UTF-8: no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def spelled_string(text: str) -> str:
    """Return a string as a filter spells it: bare if it would be read back as this string, else in quotes."""
    if _WORD.fullmatch(text) and not keyword(text) and isinstance(typed(text), str):
        return text
    return quoted(text)


def spelled_field(field: str) -> str:
    """Return the name of a field as a filter spells it, in quotes if need be."""
    return field if _WORD.fullmatch(field) and keyword(field) not in RESERVED else quoted(field)


def quoted(text: str) -> str:
    """Return `text` in the quotes that it has fewer of; those inside are doubled."""
    mark = "'" if text.count('"') > text.count("'") else '"'
    return mark + text.replace(mark, mark * 2) + mark
