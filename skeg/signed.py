"""Manifests: small JSON files that name their format and carry a checksum of themselves.

The file is canonical JSON (sorted keys, no spaces) of one object. Its key ``checksum`` holds the XXH3-64 of the
canonical JSON of the object without that key, as 16 hexadecimal digits; its key ``format`` says what the file is.
"""

from __future__ import annotations

import json
from typing import Any

from skeg.binary import canonical_json, checksum
from skeg.errors import CorruptError, FormatError, ParameterError
from skeg.files import AnyPath


def pack_signed(fields: dict[str, Any]) -> bytes:
    """Bytes of a manifest with these fields."""
    digest = f"{checksum(canonical_json('manifest', fields)):016x}"
    return canonical_json("manifest", {**fields, "checksum": digest})


def parse_signed(data: bytes, path: AnyPath, format_: str, called: str) -> dict[str, Any]:
    """Fields of the manifest `path`, not yet checked by `check_signed`: a newer version may do that differently.

    Raises
    ------
    CorruptError
        Not valid JSON.
    FormatError
        Not an object whose format is `format_`; the message says "not `called`".
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptError(path, "manifest is not valid JSON", expected="an object", found=str(error)) from error
    if not isinstance(fields, dict) or fields.get("format") != format_:
        found = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
        raise FormatError(path, f"not {called}", expected=f"format {format_!r}", found=repr(found))
    return fields


def check_signed(data: bytes, fields: dict[str, Any], path: AnyPath) -> None:
    """Take the checksum out of `fields`, which were parsed from `data`; `CorruptError` if it does not hold."""
    claimed = fields.pop("checksum", None)
    try:
        # The bytes and not just what they say: there is no bit whose change goes unnoticed.
        if data != pack_signed(fields):
            raise CorruptError(path, f"manifest does not match its checksum {claimed!r}")
    except (ParameterError, RecursionError) as error:
        raise CorruptError(path, f"manifest with a value out of range ({error})") from error
