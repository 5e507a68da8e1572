"""What the recipes share: lines of text and lists of checksums, the same bytes on every system."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text. Only a line feed ends one: WordNet has other separators inside its lines."""
    return path.read_bytes().decode().removesuffix("\n").split("\n")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a UTF-8 text, each line with a line feed."""
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def write_checksums(folder: Path) -> None:
    """List the SHA-256 of every file of `folder` but README.md, by name, as `sha256sum` does, in CHECKSUMS."""
    paths = [path for path in folder.iterdir() if path.is_file() and path.name not in ("CHECKSUMS", "README.md")]
    write_lines(
        folder / "CHECKSUMS",
        (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(paths)),
    )
