"""Payloads: what a caller keeps beside a vector, as bytes, and the fields in it that filters see.

A payload is

* None: nothing;
* a str: words ``key=value`` between white space. A word is split at its first ``=``; words without ``=`` or with
  nothing before it are no fields; an empty value is the empty string; a key that comes again has several values.
  Values are typed by their looks (`skeg.ann.filters.words`);
* bytes: kept as they are; their fields are those of the text, if they are valid UTF-8, else none;
* a mapping of str to bool, int, float, str, or a list or tuple of str (several values).

As bytes: nothing for None; else the first byte is 1, 2 or 3 for str, bytes or mapping, then UTF-8, the bytes, or
compact JSON in UTF-8 with the keys in the order of the mapping. What is decoded equals what was encoded, types
included; a tuple comes back as a list.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skeg.ann.filters.brief import brief, shortened
from skeg.ann.filters.literal import Scalar
from skeg.ann.filters.words import INT_MAX, INT_MIN, is_utf8, split_words, typed
from skeg.errors import ParameterError

Payload = str | bytes | Mapping[str, Any] | None

PAYLOAD_BYTES_MAX = 1 << 20
"""Bytes of an encoded payload: 1 MiB, so that a page of search results with payloads stays within memory."""

_TEXT, _BYTES, _MAPPING = 1, 2, 3

_VALUES = "a bool, an int of 64 bits, a finite float, a str or a list of str"


def encode_payload(payload: Any, row: int | None = None) -> bytes:
    """Return a payload as bytes, empty for None.

    Parameters
    ----------
    payload : None, str, bytes or Mapping
        See the module. Values of a mapping may be NumPy scalars, which become Python's.
    row : int, optional
        Named by errors.

    Raises
    ------
    ParameterError
        Another type, or a key or value of another type; an empty key, an int beyond 64 bits, a float that is not
        finite, half of a surrogate pair; more than `PAYLOAD_BYTES_MAX` bytes.
    """
    place = "" if row is None else f" in row {row}"
    if payload is None:
        return b""
    if isinstance(payload, str):
        data = bytes([_TEXT]) + _as_str(payload, place).encode()
    elif isinstance(payload, bytes):
        data = bytes([_BYTES]) + payload
    elif isinstance(payload, Mapping):
        text = json.dumps(_as_fields(payload, place), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        data = bytes([_MAPPING]) + text.encode()
    else:
        raise ParameterError("payloads", brief(payload), f"None, a str, bytes or a mapping{place}")
    if len(data) > PAYLOAD_BYTES_MAX:
        raise ParameterError("payloads", f"{len(data)} bytes", f"at most {PAYLOAD_BYTES_MAX} bytes{place}")
    return data


def decode_payload(data: bytes) -> str | bytes | dict[str, Any] | None:
    """Return the payload that `encode_payload` gave as `data`.

    Raises
    ------
    ValueError
        The bytes are no payload.
    """
    if not data:
        return None
    form, body = data[0], data[1:]
    if form == _BYTES:
        return bytes(body)
    if form not in {_TEXT, _MAPPING}:
        raise ValueError(f"damaged payload: expected 1, 2 or 3 as the first byte, found {form}")
    try:
        text = body.decode()
        if form == _TEXT:
            return text
        return _as_fields(json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse), "")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged payload: {error}") from error


def fields_of(payload: Any) -> dict[str, list[Scalar]]:
    """Return the values of each field of a payload, as filters see them; no field has no values.

    Parameters
    ----------
    payload : None, str, bytes or Mapping
        As for `encode_payload`, or as `decode_payload` gave it.

    Raises
    ------
    ParameterError
        As for `encode_payload`.
    """
    if payload is None:
        return {}
    if isinstance(payload, Mapping):
        listed = {key: v if isinstance(v, list) else [v] for key, v in _as_fields(payload, "").items()}
        return {key: values for key, values in listed.items() if values}
    if isinstance(payload, bytes):
        try:
            payload = payload.decode()
        except UnicodeDecodeError:
            return {}
    if not isinstance(payload, str):
        raise ParameterError("payloads", brief(payload), "None, a str, bytes or a mapping")
    fields: dict[str, list[Scalar]] = {}
    for word in split_words(_as_str(payload, "")):
        key, equals, value = word.partition("=")
        if key and equals:
            fields.setdefault(key, []).append(typed(value))
    return fields


def _as_fields(payload: Any, place: str) -> dict[str, Any]:
    """The mapping with plain Python keys and values, in its order."""
    if not isinstance(payload, Mapping):
        raise ParameterError("payloads", brief(payload), f"a mapping{place}")
    fields: dict[str, Any] = {}
    for key, value in payload.items():
        if not isinstance(key, str) or not key:
            raise ParameterError("payloads", brief(key), f"keys that are str and not empty{place}")
        name = _as_str(key, place)
        here = f" for key {shortened(name)!r}{place}"
        if isinstance(value, (list, tuple)):
            fields[name] = [_as_str(item, here, "a list of str") for item in value]
        else:
            fields[name] = _as_scalar(value, here)
    return fields


def _as_scalar(value: Any, place: str) -> Scalar:
    if isinstance(value, str):
        return _as_str(value, place)
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        if INT_MIN <= value <= INT_MAX:
            return int(value)
    elif isinstance(value, (float, np.floating)):
        number = float(value)
        if math.isfinite(number):
            return number
    raise ParameterError("payloads", brief(value), f"{_VALUES}{place}")


def _as_str(value: Any, place: str, expected: str = "text") -> str:
    if not isinstance(value, str):
        raise ParameterError("payloads", brief(value), f"{expected}{place}")
    if not is_utf8(value):
        raise ParameterError("payloads", brief(value), f"text without halves of surrogate pairs{place}")
    return str.__str__(value)  # also of a subclass that prints as something else


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key comes twice")
    return fields


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no finite number")


def encode_payloads(payloads: Any, n: int, *, is_single: bool) -> Sequence[bytes]:
    """Encoded payloads of n rows, from a sequence of them or a single one; none if no row has one.

    Raises
    ------
    ParameterError
        Another number, or one that can't be, whose row is named.
    """
    if payloads is None:
        return ()
    given = [payloads] if is_single else list(payloads)
    if len(given) != n:
        raise ParameterError("payloads", f"{len(given)} of them", f"{n}, one for each vector")
    encoded = [encode_payload(payload, row) for row, payload in enumerate(given)]
    return encoded if any(encoded) else ()


def encode_given(payloads: Any, n: int, *, is_single: bool) -> Sequence[bytes | None]:
    """As `encode_payloads`, of all n rows, with None where none was given."""
    if payloads is None:
        return [None] * n
    given = [payloads] if is_single else list(payloads)
    encoded = encode_payloads(given, n, is_single=False) or [b""] * n
    return [None if payload is None else some for payload, some in zip(given, encoded, strict=True)]
