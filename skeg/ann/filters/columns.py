"""The fields and payloads of a segment in one file, fields.skg: a container (`skeg.container`) of these arrays.

==============  =====  ===============  ====================================================================
name            dtype  shape            meaning
==============  =====  ===============  ====================================================================
kinds           u1     (c,)             kind of each column: 0 int, 1 float, 2 bool, 3 string; ascending
name_offsets    u8     (c + 1,)         field of column j: names[name_offsets[j]:name_offsets[j + 1]]
names           u1     (bytes,)         UTF-8, bytewise ascending and different within each kind, never empty
value_offsets   u8     (c + 1,)         column j has the values value_offsets[j] to value_offsets[j + 1] - 1
int_values      i8     (n_int,)         the first values, those of all int columns
float_values    f8     (n_float,)       the next ones; finite, no -0.0
bool_values     u1     (n_bool,)        the next ones; 0 or 1
string_offsets  u8     (n_str + 1,)     the last ones: strings[string_offsets[i]:string_offsets[i + 1]]
strings         u1     (bytes,)         UTF-8
starts          u8     (v + 1,)         rows with value i: rows[starts[i]:starts[i + 1]]
rows            u4     (pairs,)         ascending within a value, different, below n
payload_offsets u8     (n + 1,)         payload of row i: payloads[payload_offsets[i]:payload_offsets[i + 1]]
payloads        u1     (bytes,)         as `skeg.ann.filters.payload` encodes them; empty for no payload
==============  =====  ===============  ====================================================================

Values are numbered through all columns, v = n_int + n_float + n_bool + n_str; within a column they are distinct and
ascending (strings bytewise), and each has a row. Meta is ``{"file":"fields"}``.

Opening looks at the columns, not at their values. What a column says about rows is checked when it is first used,
so a damaged file gives a `CorruptError` or a wrong answer, never a wrong access; `Container.verify` finds all damage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.ann.filters.blobs import Blobs, ascends_within, offsets_of
from skeg.ann.filters.column import DTYPES, Column, FieldColumns, Key, Values
from skeg.ann.filters.literal import KINDS, Kind
from skeg.ann.format import ANY, Shapes, check_shapes
from skeg.container import Container, Section, write_container
from skeg.errors import CorruptError, ParameterError
from skeg.files import AnyPath

FIELDS = "fields.skg"
"""Name of the file in a segment folder."""

_SHAPES: Shapes = {
    "kinds": ("u1", (ANY,)),
    "name_offsets": ("u8", (ANY,)),
    "names": ("u1", (ANY,)),
    "value_offsets": ("u8", (ANY,)),
    "int_values": ("i8", (ANY,)),
    "float_values": ("f8", (ANY,)),
    "bool_values": ("u1", (ANY,)),
    "string_offsets": ("u8", (ANY,)),
    "strings": ("u1", (ANY,)),
    "starts": ("u8", (ANY,)),
    "rows": ("u4", (ANY,)),
    "payload_offsets": ("u8", (ANY,)),
    "payloads": ("u1", (ANY,)),
}


def key_order(key: Key) -> tuple[int, bytes]:
    """Return what columns are sorted by in the file."""
    field, kind = key
    return KINDS.index(kind), field.encode()


def write_columns(
    path: AnyPath,
    columns: Mapping[Key, Column],
    payload_offsets: npt.NDArray[np.int64],
    payload_blocks: Iterable[npt.NDArray[np.uint8]],
) -> None:
    """Write fields.skg, durably.

    Parameters
    ----------
    path : path
        A file that does not exist.
    columns : mapping of (field, kind) to Column
        Every column has a value, and every value a row.
    payload_offsets : ndarray (n + 1,) int64
        Payload of row i is bytes ``payload_offsets[i]`` to ``payload_offsets[i + 1]`` of the blocks together.
    payload_blocks : iterable of ndarray (bytes,) uint8
        Taken one at a time, so that they need not be in memory together.

    Raises
    ------
    StorageError
        The file exists, or the disk refused; or the blocks are too short, and the file does not open.
    """
    arrays = _concatenated(columns) | {"payload_offsets": payload_offsets}
    views = {name: _on_disk(arrays[name], dtype) for name, (dtype, _) in _SHAPES.items() if name != "payloads"}
    sections = [Section(name, array.dtype, array.shape) for name, array in views.items()]
    sections.append(Section("payloads", "u1", (int(payload_offsets[-1]),)))
    with write_container(path, {"file": "fields"}, sections) as writer:
        for name, array in views.items():
            writer.append(name, array)
        for block in payload_blocks:
            writer.append("payloads", block)


def _concatenated(columns: Mapping[Key, Column]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of all columns together, in file order."""
    keys = sorted(columns, key=key_order)
    ordered = [columns[key] for key in keys]
    names = Blobs.of([field.encode() for field, _ in keys])
    values: dict[Kind, list[Any]] = {kind: [np.empty(0, dtype)] for kind, dtype in DTYPES.items()} | {"str": []}
    for (_, kind), column in zip(keys, ordered, strict=True):
        values[kind].extend(column.values.tolist() if isinstance(column.values, Blobs) else [column.values])
    strings = Blobs.of(values["str"])
    counts = [np.diff(column.starts) for column in ordered]
    rows = [column.rows[column.starts[0] : column.starts[-1]] for column in ordered]
    return {
        "kinds": np.array([KINDS.index(kind) for _, kind in keys], np.uint8),
        "name_offsets": names.offsets,
        "names": names.data,
        "value_offsets": offsets_of(np.array([len(column.values) for column in ordered], np.int64)),
        **{f"{kind}_values": np.concatenate(values[kind]) for kind in DTYPES},
        "string_offsets": strings.offsets,
        "strings": strings.data,
        "starts": offsets_of(np.concatenate([np.empty(0, np.int64), *counts])),
        "rows": np.concatenate([np.empty(0, np.uint32), *rows]),
    }


def _on_disk(array: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    return array.view(np.uint64) if dtype == "u8" else array


class StoredColumns(FieldColumns):
    """fields.skg, opened. Any number of threads may use it.

    n : number of rows.

    Parameters
    ----------
    container : Container
        The open file. Its arrays stay in use after it is closed.

    Raises
    ------
    FormatError, CorruptError
        Not such a file, or what it says about its columns can't be.
    """

    def __init__(self, container: Container) -> None:
        check_shapes(container, _SHAPES)
        self._path = container.path
        arrays: dict[str, npt.NDArray[Any]] = {
            name: array.view(np.int64) if dtype == "u8" else array  # offsets from 2**63 on become negative
            for name, (dtype, _) in _SHAPES.items()
            for array in [container.array(name)]
        }
        for name in ("name_offsets", "value_offsets", "string_offsets", "starts", "payload_offsets"):
            if len(arrays[name]) == 0:
                raise self._corrupt(f"section {name!r} is empty")
        self._starts, self._rows = arrays["starts"], arrays["rows"]
        self._strings = Blobs(arrays["string_offsets"], arrays["strings"])
        self._payloads = Blobs(arrays["payload_offsets"], arrays["payloads"])
        self.n = len(self._payloads)
        self._values: dict[Kind, Values] = {kind: arrays[f"{kind}_values"] for kind in DTYPES} | {"str": self._strings}
        # The number of the first value of each kind, and after all.
        self._bases = np.cumsum([0, *map(len, self._values.values())]).tolist()
        self._places = self._read_places(arrays)
        self._kinds: dict[str, set[Kind]] = {}
        for field, kind in self._places:
            self._kinds.setdefault(field, set()).add(kind)
        self._columns: dict[Key, Column] = {}

    def _read_places(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[Key, tuple[int, int]]:
        """First value of each column and the first of the next."""
        codes, offsets = arrays["kinds"], arrays["value_offsets"]
        names = Blobs(arrays["name_offsets"], arrays["names"])
        if not len(codes) == len(names) == len(offsets) - 1:
            raise self._corrupt("columns, names and values differ in number")
        if not names.is_sound():
            raise self._corrupt("names of columns are out of place")
        if len(self._starts) != self._bases[-1] + 1:
            raise self._corrupt("values and their rows differ in number")
        if not ascends_within(offsets, self._bases[-1]):
            raise self._corrupt("values of columns are out of place")
        places: dict[Key, tuple[int, int]] = {}
        for code, name, (start, stop) in zip(codes.tolist(), names.tolist(), pairwise(offsets.tolist()), strict=True):
            fits = code < len(KINDS) and self._bases[code] <= start <= stop <= self._bases[code + 1]
            if not fits:
                raise self._corrupt("values of a column are not of its kind")
            try:
                key = (name.decode(), KINDS[code])
            except UnicodeDecodeError as error:
                raise self._corrupt("the name of a column is no UTF-8") from error
            if not name or key in places:
                raise self._corrupt("a column without a name, or two of one name")
            places[key] = (start, stop)
        return places

    def kinds(self) -> Mapping[str, set[Kind]]:
        """Return the kinds of values of every field."""
        return self._kinds

    def column_keys(self) -> list[Key]:
        """Return field and kind of every column."""
        return list(self._places)

    def find(self, field: str, kind: Kind) -> Column | None:
        """Return the column of one kind of one field, None if there is none.

        Raises
        ------
        CorruptError
            Its values or rows are out of place.
        """
        key = (field, kind)
        column = self._columns.get(key)
        if column is None and key in self._places:
            # Two threads may do this at once, and make the same column.
            column = self._columns[key] = self._column(key)
        return column

    def _column(self, key: Key) -> Column:
        start, stop = self._places[key]
        base = self._bases[KINDS.index(key[1])]
        values, starts = self._values[key[1]], self._starts[start : stop + 1]
        if not ascends_within(starts, len(self._rows)):
            raise self._corrupt(f"rows of field {key[0]!r} are out of place")
        rows = self._rows[starts[0] : starts[-1]]
        if len(rows) and int(rows.max()) >= self.n:
            raise self._corrupt(f"field {key[0]!r} has a row that does not exist")
        if isinstance(values, Blobs):
            values = values.part(start - base, stop - base)
            if not values.is_sound():
                raise self._corrupt(f"strings of field {key[0]!r} are out of place")
        else:
            values = values[start - base : stop - base]
        return Column(values, starts, self._rows, self.n)

    def payload(self, row: int) -> bytes:
        """Return the encoded payload of a row, empty if it has none.

        Raises
        ------
        CorruptError
            It is out of place.
        ParameterError
            There is no such row.
        """
        if not 0 <= row < self.n:
            raise ParameterError("row", row, f"a row from 0 to {self.n - 1}")
        if not self._payloads.part(row, row + 1).is_sound():
            raise self._corrupt(f"payload of row {row} is out of place")
        return self._payloads[row]

    def payloads(self) -> Blobs:
        """Return the encoded payloads of all rows, without a copy.

        Raises
        ------
        CorruptError
            Some are out of place.
        """
        if not self._payloads.is_sound():
            raise self._corrupt("payloads are out of place")
        return self._payloads

    def _corrupt(self, problem: str) -> CorruptError:
        return CorruptError(self._path, problem)
