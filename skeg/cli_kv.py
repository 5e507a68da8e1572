"""The commands `skeg kv`: arguments in, calls of one store, results out.

Commands that change nothing open the store for reading, so they work beside a process that writes to it. Library
modules are imported inside the commands, as in `skeg.cli`.
"""

from __future__ import annotations

import base64
import itertools
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import click

from skeg import report
from skeg.cli_common import EXIT_FINDING, EXIT_OK, existing_path, json_option, show, show_findings
from skeg.errors import CorruptError

if TYPE_CHECKING:
    from skeg.kv.store import Store

# From arguments to bytes and back, by spelling; None is text. The system hands over arguments that are not UTF-8 with
# stand-ins for the bytes that are none, and "surrogateescape" knows which.
_READ: Mapping[str | None, Callable[[str], bytes]] = {
    None: partial(str.encode, errors="surrogateescape"),
    "hex": bytes.fromhex,
    "base64": partial(base64.b64decode, validate=True),
}
_SPELL: Mapping[str | None, Callable[[bytes], str]] = {
    # Line ends, other control characters and bytes that are no text are escaped: a pair stays on its line.
    None: lambda data: repr(data.decode(errors="surrogateescape"))[1:-1],
    "hex": bytes.hex,
    "base64": lambda data: base64.b64encode(data).decode(),
}

_store = click.argument("store", metavar="DIR", type=existing_path)
_new_store = click.argument("store", metavar="DIR", type=click.Path(path_type=Path))
_prefix = click.option("--prefix", default="", help="Only keys that begin so.")


def _file_format(*choices: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--format", "file_format", type=click.Choice(choices), default=choices[0], show_default=True)


def _spelling(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options that say how bytes are spelled on the command line; text without them."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        in_hex = click.option("--hex", "spelling", flag_value="hex", help=f"Spell {what} in hexadecimal.")
        in_base64 = click.option("--base64", "spelling", flag_value="base64", help=f"Spell {what} in base64.")
        return in_hex(in_base64(command))

    return decorate


@click.group()
def kv() -> None:
    """Read, change and check the key-value store in a directory.

    Keys and values are text (UTF-8) unless an option says otherwise.
    """


@kv.command()
@_store
@click.argument("key")
@_spelling("KEY")
@json_option
def get(store: Path, key: str, spelling: str | None, json_output: bool) -> None:
    """Print the bytes of the value of KEY and nothing else; exit with 1 when there is no such key."""
    name = _bytes(key, spelling)
    with _open(store) as opened:
        value = opened.get(name)
    if json_output:
        click.echo(report.as_json(_fields(name, value) | ({"value": None} if value is None else {})))
    elif value is not None:
        click.echo(value, nl=False)
    if value is None:
        sys.exit(EXIT_FINDING)


@kv.command("set")
@_new_store
@click.argument("key")
@click.argument("value", required=False)
@click.option("--file", type=click.File("rb"), help="Take the value from a file, byte for byte; - is stdin.")
@_spelling("KEY and VALUE")
@json_option
def set_(
    store: Path, key: str, value: str | None, file: IO[bytes] | None, spelling: str | None, json_output: bool
) -> None:
    """Set the value of KEY to VALUE, durably; makes the store if need be."""
    from skeg.files import disk_errors
    from skeg.kv.format import VALUE_BYTES_MAX
    from skeg.kv.transfer import stream_name

    name = _bytes(key, spelling)
    if value is not None and file is None:
        data = _bytes(value, spelling)
    elif file is not None and value is None:
        with disk_errors(stream_name(file), "read"):
            data = file.read(VALUE_BYTES_MAX + 1)  # one byte too many is enough to be refused
    else:
        raise click.UsageError("Give either VALUE or --file.")
    with _open(store, "rw") as opened:
        opened.set(name, data)
    show({**_fields(name), "value_bytes": len(data)}, json_output)


@kv.command("del")
@_store
@click.argument("key")
@_spelling("KEY")
@json_option
def delete(store: Path, key: str, spelling: str | None, json_output: bool) -> None:
    """Delete KEY and say whether it was there."""
    name = _bytes(key, spelling)
    with _open(store, "rw") as opened:
        deleted = opened.delete(name)
    show({**_fields(name), "deleted": deleted}, json_output)


@kv.command()
@_store
@_prefix
@click.option("--limit", type=click.IntRange(min=0), help="Stop after so many keys.")
@click.option("--keys-only", is_flag=True, help="Leave out the values.")
@_spelling("the prefix and what is printed")
@json_option
def scan(store: Path, prefix: str, limit: int | None, keys_only: bool, spelling: str | None, json_output: bool) -> None:
    """Print keys and values, a pair on a line with a tab between them, in no particular order.

    In text, what is not printable is escaped.
    """
    start = _bytes(prefix, spelling)
    spell = _SPELL[spelling]
    with _open(store) as opened:
        pairs = itertools.islice(opened.scan(start), limit)
        if not json_output:
            for key, value in pairs:
                click.echo(spell(key) if keys_only else f"{spell(key)}\t{spell(value)}")
            return
        # One object, but never all of it in memory.
        click.echo('{"pairs": [', nl=False)
        for i, (key, value) in enumerate(pairs):
            fields = _fields(key, None if keys_only else value)
            click.echo((", " if i else "") + report.as_json(fields), nl=False)
        click.echo("]}")


@kv.command()
@_store
@json_option
def stats(store: Path, json_output: bool) -> None:
    """Print what the store holds and takes."""
    with _open(store) as opened:
        show({"store": str(store), **opened.stats()}, json_output)


@kv.command()
@_store
@json_option
def compact(store: Path, json_output: bool) -> None:
    """Give back the disk space of values that were deleted or replaced, and print how much it was."""
    with _open(store, "rw") as opened:
        show({"reclaimed_bytes": opened.compact()}, json_output)


@kv.command()
@_store
@json_option
def verify(store: Path, json_output: bool) -> None:
    """Check every record of the store and exit with 1 when something is wrong."""
    try:
        with _open(store) as opened:
            findings = opened.verify()
    except CorruptError as error:
        findings = [error]
    show_findings(store, findings, json_output)


@kv.command()
@_store
@json_option
def salvage(store: Path, json_output: bool) -> None:
    """Repair a damaged store: keep everything that is whole, say what is lost, and exit with 1 if that is anything.

    Damaged files are kept under names that end in .damaged.
    """
    from skeg.kv import Store, StoreOptions

    with Store.open(store, options=StoreOptions(salvage=True)) as opened:
        figures = opened.stats()
    show({"store": str(store), "keys": figures["keys"], "dropped": figures["dropped"]}, json_output)
    sys.exit(EXIT_FINDING if figures["dropped"] else EXIT_OK)


@kv.command("export")
@_store
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@_file_format("ndjson", "dump")
@_prefix
@_spelling("the prefix")
@json_option
def export_(store: Path, file: str, file_format: str, prefix: str, spelling: str | None, json_output: bool) -> None:
    """Write the pairs of the store, as they are at this moment, to FILE; - is stdout.

    ndjson: one JSON object a line with the fields key and value; bytes that are not UTF-8 stand in base64 as key_base64
    and value_base64. dump: binary, smaller and faster, with checksums.
    """
    from skeg.kv.transfer import export_store

    target = sys.stdout.buffer if file == "-" else file
    with _open(store) as opened:
        count = export_store(opened, target, file_format=file_format, prefix=_bytes(prefix, spelling))
    if file != "-":
        show({"file": file, "pairs": count}, json_output)


@kv.command("import")
@_new_store
@click.argument("source", type=click.Path(exists=True, allow_dash=True))
@_file_format("ndjson", "dump", "original")
@json_option
def import_(store: Path, source: str, file_format: str, json_output: bool) -> None:
    """Set the pairs of SOURCE in the store.

    ndjson, dump: a file that `skeg kv export` wrote; - is stdin. Pairs before a damaged place may have been set.
    original: the data folder of the original skeg, the program in Rust, which must not be running, or the folder of one
    of its shards. Everything is checked before the first pair is set.

    Makes the store if need be.
    """
    from skeg.kv.original import import_original
    from skeg.kv.transfer import import_store

    with _open(store, "rw") as opened:
        if file_format == "original":
            imported = import_original(opened, source)
            places = [{"path": p.path, "offset": p.offset, "problem": p.problem} for p in imported.unfinished]
            found = {"pairs": imported.pairs, "unfinished": places}
        else:
            file = sys.stdin.buffer if source == "-" else source
            found = {"pairs": import_store(opened, file, file_format=file_format)}
    show({"store": str(store), **found}, json_output)


def _bytes(text: str, spelling: str | None) -> bytes:
    try:
        return _READ[spelling](text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not {spelling}: {error}") from error


def _fields(key: bytes, value: bytes | None = None) -> dict[str, Any]:
    """A key, and a value if there is one, as fields of JSON."""
    from skeg.kv.transfer import text_field

    return text_field("key", key) | ({} if value is None else text_field("value", value))


def _open(store: Path, mode: Literal["r", "rw"] = "r") -> Store:
    from skeg.kv.store import Store

    return Store.open(store, mode=mode)
