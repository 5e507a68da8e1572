"""skeg.container and skeg.layout: every file reads back, and no damage goes unnoticed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skeg import container, files, layout
from skeg.binary import align_up, checksum
from skeg.container import Container, Section, write_container
from skeg.errors import (
    ClosedError,
    CorruptError,
    FormatError,
    ParameterError,
    StorageError,
    VectorError,
    VersionTooNewError,
)

GOLDEN = Path(__file__).parent / "golden" / "container-1.0.skg"

ENTRY = 64  # where the first entry of the section table is

on_disk = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path, meta, arrays):
    with write_container(path, meta, [Section(n, a.dtype, a.shape) for n, a in arrays.items()]) as writer:
        for name, array in arrays.items():
            writer.append(name, array)
    return path


def write_golden(path):
    """The recipe of the golden file: each dtype, each number of dimensions, an empty section, text beyond ASCII."""
    arrays = {
        "codes": np.arange(70, dtype="u1").reshape(7, 10),
        "signed": np.array([-1, 0, 1], "i1"),
        "wide": np.arange(8, dtype="u2").reshape(2, 2, 2),
        "short": np.array([-300], "i2"),
        "links": np.array([[1, 2**32 - 1]], "u4"),
        "offsets": np.array([-(2**31)], "i4"),
        "ids": np.array([0, 2**64 - 2], "u8"),
        "long": np.array([-(2**63)], "i8"),
        "half": np.array([1.5, np.inf], "f2"),
        "scale": np.array(0.5, "f4"),
        "double": np.array([1 / 3], "f8"),
        "пусто": np.zeros((0, 5), "f4"),
    }
    return write(path, {"kind": "golden", "text": "ü", "numbers": [1, -2.5, 2**70, True, None]}, arrays)


@pytest.fixture
def small(tmp_path):
    """A file with padding of several lengths and an empty section."""
    arrays = {
        "codes": np.arange(70, dtype="u1").reshape(10, 7),
        "none": np.zeros((0, 3), "f4"),
        "ids": np.arange(8, dtype="u8"),
        "mean": np.array([0.5, -1.0, 3.0], "f4"),
    }
    return write(tmp_path / "small.skg", {"kind": "test", "dim": 7}, arrays)


def read_all(path):
    """Open, look at every array and verify; what a reader does with a file it does not trust."""
    with Container.open(path) as reader:
        arrays = {section.name: reader.array(section.name).tolist() for section in reader.sections}
        reader.verify()
    return arrays


def sign(data):
    """Put the right checksum into a header that was changed."""
    header_length = int.from_bytes(data[12:16], "little")
    end = header_length + 80 * int.from_bytes(data[28:32], "little") + int.from_bytes(data[24:28], "little")
    return data[:32] + checksum(data[:32], bytes(8), data[40:end]).to_bytes(8, "little") + data[40:]


def patch(data, offset, new):
    return data[:offset] + new + data[offset + len(new) :]


# The format


def test_the_golden_file_is_made_byte_for_byte(tmp_path):
    assert GOLDEN.read_bytes() == write_golden(tmp_path / "new.skg").read_bytes()


def test_the_golden_file_is_read():
    """Files of this version are readable for ever."""
    with Container.open(GOLDEN) as reader:
        assert {"kind": "golden", "text": "ü", "numbers": [1, -2.5, 2**70, True, None]} == reader.meta
        assert [0, 2**64 - 2] == reader.array("ids").tolist()
        assert 0.5 == reader.array("scale")[()]
        assert [-300] == reader.array("short").tolist()
        assert [[[0, 1], [2, 3]], [[4, 5], [6, 7]]] == reader.array("wide").tolist()
        assert Section("пусто", "f4", (0, 5)) == reader.sections[-1]
        assert sorted(layout.DTYPES.values(), key=str) == sorted({s.dtype for s in reader.sections}, key=str)
        reader.verify()


def test_the_worked_example_of_the_specification_is_true(tmp_path):
    rows = re.findall(r"^ {4}[0-9a-f]{3}  ((?:[0-9a-f]{2} ){16})", container.__doc__, re.MULTILINE)
    written = write(tmp_path / "a.skg", {"a": 1}, {"ids": np.array([1, 2, 515], "u2")})
    assert bytes.fromhex("".join(rows)) == written.read_bytes()


@on_disk
@given(
    arrays=st.lists(
        hnp.arrays(
            st.sampled_from(["u1", "i1", "i4", "u4", "u8", "f4", "f2"]).map(np.dtype),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40),
        ),
        max_size=4,
    ),
    meta=st.dictionaries(st.sampled_from("abc"), st.integers() | st.lists(st.integers(), max_size=3)),
    pieces=st.integers(1, 5),
    reverse=st.booleans(),
)
def test_what_is_written_reads_back(tmp_path_factory, arrays, meta, pieces, reverse):
    """Any dtype, shape, strides and number of appends; the bytes don't depend on strides and appends."""
    folder = tmp_path_factory.mktemp("round")
    named = {f"s{i}": array for i, array in enumerate(arrays)}
    with write_container(folder / "a", meta, [Section(n, a.dtype, a.shape) for n, a in named.items()]) as writer:
        for name, array in named.items():
            laid_out = array[::-1].copy()[::-1] if reverse and array.ndim else array.copy(order="F")
            for piece in np.array_split(laid_out, pieces) if array.ndim else [laid_out]:
                writer.append(name, piece)
    with Container.open(folder / "a") as reader:
        assert meta == reader.meta
        assert folder / "a" == reader.path
        assert os.path.getsize(folder / "a") == reader.nbytes
        assert [(n, a.dtype, a.shape) for n, a in named.items()] == [
            (s.name, s.dtype, s.shape) for s in reader.sections
        ]
        for name, array in named.items():
            read = reader.array(name)
            assert array.tobytes() == read.tobytes()
            assert (array.shape, array.dtype) == (read.shape, read.dtype)
            assert not read.flags.writeable
            assert 0 == read.ctypes.data % 64 or not read.size
            assert read is reader.array(name)
        reader.verify()
    assert write(folder / "b", meta, named).read_bytes() == (folder / "a").read_bytes()


def test_arrays_larger_than_a_block_are_written_and_verified_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "_BLOCK_BYTES", 24)
    array = np.arange(70, dtype="u4").reshape(7, 10).T
    path = write(tmp_path / "a", {}, {"x": array, "y": np.arange(25, dtype="u1")})
    calls = []
    with Container.open(path) as reader:
        assert array.tolist() == reader.array("x").tolist()
        reader.verify(progress=lambda done, total: calls.append((done, total)))
        assert sorted(calls) == calls
        assert len(calls) > 10
        end = reader.nbytes - (-25 % 64)
        assert (end, reader.nbytes) == calls[-1]


def test_a_container_may_have_no_sections(tmp_path):
    with Container.open(write(tmp_path / "a", {}, {})) as reader:
        assert ({}, (), 128) == (reader.meta, reader.sections, reader.nbytes)
        reader.verify()


def test_a_section_that_is_not_there_is_told_what_is(small):
    with Container.open(small) as reader:
        for use in (reader.array, lambda name: reader.advise(name, "random")):
            with pytest.raises(FormatError, match="expected a section 'links', found codes, none, ids, mean"):
                use("links")


def test_advice_on_a_section_is_taken(small):
    with Container.open(small) as reader:
        for section, advice in itertools.product(reader.sections, ["random", "willneed", "normal"]):
            reader.advise(section.name, advice)
        reader.verify()


def test_nothing_comes_out_of_a_closed_container_but_arrays_live_on(small):
    reader = Container.open(small)
    ids = reader.array("ids")
    reader.close()
    reader.close()
    assert list(range(8)) == ids.tolist()
    for use in (lambda: reader.array("ids"), reader.verify, lambda: reader.advise("ids", "random")):
        with pytest.raises(ClosedError, match="was closed"):
            use()


# What the writer refuses


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("", "u1", (1,)),
        ("n" * 25, "u1", (1,)),
        ("я" * 13, "u1", (1,)),
        ("a\0b", "u1", (1,)),
        ("\ud800", "u1", (1,)),
        ("a", "O", (1,)),
        ("a", ">f4", (1,)),
        ("a", "c8", (1,)),
        ("a", "?", (1,)),
        ("a", "S2", (1,)),
        ("a", "nonsense", (1,)),
        ("a", "u1", (1, 1, 1, 1)),
        ("a", "u1", (-1,)),
        ("a", "u1", (1.5,)),
        ("a", "u2", (2**48,)),
        ("a", "u1", (2**62, 0)),
    ],
)
def test_a_section_that_the_format_has_no_place_for_is_refused(name, dtype, shape):
    with pytest.raises(ParameterError):
        Section(name, dtype, shape)


def test_names_and_dimensions_up_to_the_limit_are_taken(tmp_path):
    arrays = {"n" * 24: np.ones((1, 2, 3), "i8"), "я" * 12: np.array(7, "u1")}
    assert {n: a.tolist() for n, a in arrays.items()} == read_all(write(tmp_path / "a", {}, arrays))


@pytest.mark.parametrize(
    ("meta", "sections"),
    [
        ({}, [Section("a", "u1", ()), Section("a", "u2", ())]),
        ({}, [Section(f"s{i}", "u1", (0,)) for i in range(1025)]),
        ({"a": "x" * 2**24}, []),
        ({"a": float("nan")}, []),
        ({"a": np.float32(1)}, []),
    ],
)
def test_what_the_format_has_no_place_for_is_refused_before_a_file_is_made(tmp_path, meta, sections):
    with pytest.raises(ParameterError):
        write_container(tmp_path / "a", meta, sections)
    assert [] == os.listdir(tmp_path)


def test_a_thousand_sections_and_a_large_meta_are_taken(tmp_path):
    arrays = {f"s{i}": np.zeros((0,), "u1") for i in range(1024)}
    with Container.open(write(tmp_path / "a", {"a": "x" * (2**24 - 8)}, arrays)) as reader:
        assert (1024, 2**24 - 8) == (len(reader.sections), len(reader.meta["a"]))


@pytest.mark.parametrize(
    ("name", "array", "error", "text"),
    [
        ("b", np.zeros(2, "u1"), ParameterError, "name='b': expected section 'a'"),
        ("c", np.zeros((1, 2), "f4"), ParameterError, "name='c': expected section 'a'"),
        ("a", np.zeros((1, 2), "f8"), VectorError, "section 'a': expected dtype float32, found dtype float64"),
        ("a", np.zeros((1, 2), ">f4"), VectorError, "expected dtype float32, found dtype >f4"),
        ("a", np.zeros((2, 3), "f4"), VectorError, r"expected rows of \(3, 2\), found shape \(2, 3\)"),
        ("a", np.zeros(2, "f4"), VectorError, r"expected rows of \(3, 2\), found shape \(2,\)"),
        ("a", np.zeros((0, 3), "f4"), VectorError, r"expected rows of \(3, 2\)"),
        ("a", np.zeros((4, 2), "f4"), VectorError, "expected at most 24 bytes more, found 32 bytes"),
    ],
)
def test_rows_that_do_not_belong_are_refused_and_nothing_is_lost(tmp_path, name, array, error, text):
    with write_container(tmp_path / "a", {}, [Section("a", "f4", (3, 2)), Section("b", "u1", (2,))]) as writer:
        with pytest.raises(error, match=text):
            writer.append(name, array)
        writer.append("a", np.ones((3, 2), "f4"))
        writer.append("b", np.ones(2, "u1"))
        with pytest.raises(ParameterError, match="expected no more, all sections are full"):
            writer.append("b", np.ones(1, "u1"))
        writer.append("a", np.ones((0, 2), "f4"))
    assert {"a": [[1, 1]] * 3, "b": [1, 1]} == read_all(tmp_path / "a")


# Writers that fail


def appends():
    """The steps of writing a file of three sections."""
    sections = [Section("a", "u4", (30,)), Section("b", "u1", (3,)), Section("c", "f4", (2, 2))]
    steps = [("a", np.ones(10, "u4"))] * 3 + [("b", np.ones(1, "u1"))] * 3 + [("c", np.ones((1, 2), "f4"))] * 2
    return sections, steps


@pytest.mark.parametrize("done", range(9))
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_writer_that_is_interrupted_leaves_a_file_that_does_not_open(tmp_path, done, error):
    sections, steps = appends()
    writer = write_container(tmp_path / "a", {}, sections)

    def interrupted():
        with writer:
            for name, array in steps[:done]:
                writer.append(name, array)
            raise error

    with pytest.raises(error):
        interrupted()
    with pytest.raises(FormatError, match="not a skeg container, or not finished"):
        Container.open(tmp_path / "a")
    with pytest.raises(ClosedError):
        writer.append("a", np.ones(1, "u4"))


@pytest.mark.parametrize("done", range(8))
def test_a_section_that_is_not_full_is_an_error_at_close(tmp_path, done):
    sections, steps = appends()
    writer = write_container(tmp_path / "a", {}, sections)
    for name, array in steps[:done]:
        writer.append(name, array)
    with pytest.raises(StorageError, match=r"section '.' was not filled: expected \d+ bytes, found \d+ bytes"):
        writer.close()
    writer.close()
    with pytest.raises(FormatError, match="not finished"):
        Container.open(tmp_path / "a")


def test_a_killed_writer_leaves_a_file_that_does_not_open(tmp_path):
    """What is on the disk after each step but the last is what a process killed there leaves."""
    sections, steps = appends()
    with write_container(tmp_path / "a", {}, sections) as writer:
        for step in steps:
            writer.append(*step)
            with pytest.raises(FormatError, match="not finished"):
                Container.open(tmp_path / "a")
    read_all(tmp_path / "a")


@pytest.mark.parametrize("room", [0, 100, 120, 140, 200, 201, 335])
def test_a_full_disk_is_named_and_the_file_does_not_open(tmp_path, monkeypatch, room):
    """Wherever the space ends, also half-way through a write."""
    left = [room]

    def write_some(descriptor, data):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = os.write(descriptor, data[: left[0]])
        left[0] -= taken
        return taken

    monkeypatch.setattr(files, "_write", write_some)
    sections, steps = appends()
    writer = write_container(tmp_path / "a", {}, sections)

    def fill():
        with writer:
            for step in steps:
                writer.append(*step)

    with pytest.raises(StorageError) as caught:
        fill()
    assert f"{tmp_path / 'a'}: can't write: {os.strerror(errno.ENOSPC)}" == str(caught.value)
    with pytest.raises((FormatError, CorruptError)):
        Container.open(tmp_path / "a")
    writer.close()


def test_the_sections_are_synced_before_the_header_is_written(tmp_path, monkeypatch):
    events = []
    for name in ("fsync_file", "_write"):
        original = getattr(files, name)
        monkeypatch.setattr(
            files, name, lambda *a, _name=name, _original=original: (events.append(_name), _original(*a))[1]
        )
    write(tmp_path / "a", {}, {"x": np.ones(64, "u1")})
    assert ["_write", "fsync_file", "_write", "fsync_file", "fsync_file"] == events


def test_a_file_that_exists_is_not_overwritten(small):
    before = small.read_bytes()
    with pytest.raises(StorageError, match="can't create: "):
        write_container(small, {}, [])
    assert before == small.read_bytes()


# Damage


def test_a_file_cut_at_any_byte_does_not_open(small):
    for length in reversed(range(small.stat().st_size)):
        os.truncate(small, length)
        with pytest.raises(FormatError if length < 8 else CorruptError):
            Container.open(small)


@pytest.mark.parametrize("extra", [b"\0", b"x", bytes(64)])
def test_a_file_with_bytes_after_its_end_does_not_open(small, extra):
    size = small.stat().st_size
    small.write_bytes(small.read_bytes() + extra)
    with pytest.raises(CorruptError, match="file cut short or extended") as caught:
        Container.open(small)
    assert size == caught.value.offset


def test_no_bit_can_change_unnoticed(small):
    """Every bit of the file is flipped: opening fails, or verify says which section or which byte of padding it was."""
    data = small.read_bytes()
    blame = {}
    with Container.open(small) as reader:
        first = reader._entries["codes"].offset
        for name, entry in reader._entries.items():
            blame |= {entry.offset + i: (entry.offset, f"section '{name}' does not") for i in range(entry.length)}
    meta_end = data.rindex(b"}", 0, first) + 1
    with open(small, "r+b", buffering=0) as file:
        for offset, bit in itertools.product(range(len(data)), range(8)):
            os.pwrite(file.fileno(), bytes([data[offset] ^ (1 << bit)]), offset)
            if offset < meta_end:
                with pytest.raises((FormatError, CorruptError)):
                    Container.open(small)
            else:
                place, text = blame.get(offset, (offset, "padding is not zero"))
                with Container.open(small) as reader, pytest.raises(CorruptError, match=text) as caught:
                    reader.verify()
                assert place == caught.value.offset
            os.pwrite(file.fileno(), data[offset : offset + 1], offset)
    read_all(small)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00" + bytes(200), b"SKEGFIL", b"{}", bytes(4096)])
def test_a_file_of_another_kind_is_a_format_error(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FormatError, match="not a skeg container") as caught:
        Container.open(tmp_path / "a")
    assert (str(tmp_path / "a"), 0) == (caught.value.path, caught.value.offset)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_opened_is_a_storage_error(tmp_path, name):
    with pytest.raises(StorageError) as caught:
        Container.open(tmp_path / name)
    assert not isinstance(caught.value, FormatError | CorruptError)


def test_a_newer_major_version_is_refused_as_such(small):
    small.write_bytes(sign(patch(small.read_bytes(), 8, b"\x02\x00\x01\x00")))
    with pytest.raises(VersionTooNewError, match=r"offset 8: version can't be read: expected 1\.x, found 2\.1"):
        Container.open(small)
    small.write_bytes(sign(patch(small.read_bytes(), 8, b"\x00\x00")))
    with pytest.raises(FormatError, match=r"found 0\.1"):
        Container.open(small)


def test_a_newer_minor_version_is_read_with_its_reserved_bytes_and_longer_header(small):
    expected = read_all(small)
    data = small.read_bytes()
    newer = patch(patch(patch(data, 10, b"\x07\x00"), 63, b"\xff"), ENTRY + 31, b"\xff")
    small.write_bytes(sign(newer))
    assert expected == read_all(small)
    # 64 bytes more of header move the sections by one multiple of the alignment.
    longer = newer[:64] + b"\xaa" * 64 + newer[64:]
    longer = patch(longer, 12, (128).to_bytes(4, "little"))
    longer = patch(longer, 16, len(longer).to_bytes(8, "little"))
    for i in range(4):
        at = 128 + 80 * i + 56
        longer = patch(longer, at, (int.from_bytes(longer[at : at + 8], "little") + 64).to_bytes(8, "little"))
    small.write_bytes(sign(longer))
    assert expected == read_all(small)


def u8(value):
    return value.to_bytes(8, "little")


FORGED = {
    "header too short": (12, (63).to_bytes(4, "little")),
    "header too long": (12, (4097).to_bytes(4, "little")),
    "file length": (16, u8(2**63)),
    "meta too long": (24, (2**24 + 1).to_bytes(4, "little")),
    "meta beyond the file": (24, (2**20).to_bytes(4, "little")),
    "too many sections": (28, (1025).to_bytes(4, "little")),
    "sections beyond the file": (28, (1000).to_bytes(4, "little")),
    "a section too few": (28, (3).to_bytes(4, "little")),
    "name empty": (ENTRY, bytes(24)),
    "name with a zero inside": (ENTRY, b"a\0b"),
    "name not UTF-8": (ENTRY, b"\xff"),
    "name taken": (ENTRY, b"ids\0\0"),
    "dtype unknown": (ENTRY + 24, b"O8"),
    "dtype that NumPy would take": (ENTRY + 24, b"i\0"),
    "dtype of another size": (ENTRY + 24, b"u2"),
    "dimensions too many": (ENTRY + 26, b"\x04"),
    "dimensions too few": (ENTRY + 26, b"\x01"),
    "sizes beyond the dimensions": (ENTRY + 48, u8(1)),
    "size too small": (ENTRY + 32, u8(9)),
    "size enormous": (ENTRY + 32, u8(2**64 - 1)),
    "product enormous": (ENTRY + 32, u8(2**62) + u8(2**62)),
    "enormous but empty": (ENTRY + 80 + 32, u8(0) + u8(2**62)),
    "offset into another section": (ENTRY + 2 * 80 + 56, u8(448)),
    "offset not aligned": (ENTRY + 56, u8(449)),
    "offset beyond the file": (ENTRY + 56, u8(2**40)),
    "length": (ENTRY + 64, u8(69)),
    "meta no JSON": (ENTRY + 320, b"["),
    "meta no object": (ENTRY + 320, b'"kind:test dim:777777777'),
    "meta not UTF-8": (ENTRY + 322, b"\xff"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_header_that_lies_under_a_right_checksum_does_not_open(small, name):
    data = small.read_bytes()
    forged = sign(patch(data, *FORGED[name]))
    assert forged != data
    small.write_bytes(forged)
    with pytest.raises((FormatError, CorruptError)):
        Container.open(small)


def test_a_file_longer_than_its_sections_does_not_open(small):
    data = small.read_bytes() + bytes(64)
    small.write_bytes(sign(patch(data, 16, u8(len(data)))))
    with pytest.raises(CorruptError, match="sections do not fill the file"):
        Container.open(small)


@pytest.mark.parametrize("meta", [b"[" * 100_000 + b"]" * 100_000, b"9" * 5000, b"7", b"", b'{"a":1}x'])
def test_meta_that_json_refuses_is_corrupt(tmp_path, meta):
    """Nesting that ends the parser's stack, and integers that Python does not parse, included."""
    (tmp_path / "a").write_bytes(layout.pack_start(meta, [], []))
    with pytest.raises(CorruptError, match="meta is no JSON"):
        Container.open(tmp_path / "a")


@on_disk
@given(data=st.data())
def test_only_typed_errors_come_out_of_a_forged_file(small, data):
    content = original = small.read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        offset = data.draw(st.integers(8, 447))
        content = patch(content, offset, data.draw(st.binary(min_size=1, max_size=8)))
    forged = small.with_name("forged")
    forged.write_bytes(sign(content))
    with contextlib.suppress(StorageError):
        read_all(forged)
    assert original == small.read_bytes()


def test_alignment_of_the_format_is_that_of_a_cache_line(small):
    with Container.open(small) as reader:
        assert [0] * 4 == [entry.offset % 64 for entry in reader._entries.values()]
        assert align_up(reader.nbytes, 64) == reader.nbytes
