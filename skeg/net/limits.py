"""How much of what a peer announces is believed; everything is checked on the header, before memory is taken."""

from __future__ import annotations

from typing import Any

import attrs

from skeg.checks import as_int


def _at_least_1(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    as_int(attribute.name, value, 1)


@attrs.frozen(kw_only=True)
class Limits:
    """Sizes from which on a peer is not listened to any more.

    Parameters
    ----------
    bulk_bytes_max : int
        Bytes of one RESP string.
    args_max : int
        Elements of one RESP array, so arguments of a command, its name among them.
    depth_max : int
        Levels of arrays below the outermost one.
    inline_bytes_max : int
        Bytes of a line: a command that is typed, or a text in a reply.
    request_bytes_max : int
        Bytes of all arguments of one command.
    frame_bytes_max : int
        Bytes of the payload of one binary frame.
    """

    bulk_bytes_max: int = attrs.field(default=512 << 20, validator=_at_least_1)
    args_max: int = attrs.field(default=1 << 20, validator=_at_least_1)
    depth_max: int = attrs.field(default=128, validator=_at_least_1)
    inline_bytes_max: int = attrs.field(default=64 << 10, validator=_at_least_1)
    request_bytes_max: int = attrs.field(default=1 << 30, validator=_at_least_1)
    frame_bytes_max: int = attrs.field(default=16 << 20, validator=_at_least_1)

    @classmethod
    def before_auth(cls) -> Limits:
        """What a server takes from somebody who has not given the password yet: enough to give it."""
        return cls(
            bulk_bytes_max=16 << 10,
            args_max=10,
            depth_max=4,
            inline_bytes_max=4 << 10,
            request_bytes_max=32 << 10,
            frame_bytes_max=16 << 10,
        )
