"""Stores written to files and read back: every byte, in bounded memory, and never a damaged one."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.binary import checksum
from skeg.errors import CorruptError, FormatError, ParameterError, StorageError, VersionTooNewError
from skeg.kv.store import Store
from skeg.kv.transfer import export_store, import_store

FORMATS = ["ndjson", "dump"]

PAIRS = {
    b"": b"the empty key",
    b"empty": b"",
    b"text": 'über "quotes" \\ and\nlines\r\n\t'.encode(),
    "ключ 鍵 \u2028 😀".encode(): b"\x00\x1f\x7f",
    b"\xef\xbb\xbfmark": "\ufffd".encode(),
    b"\xff\xfe": bytes(range(256)),
    b"half a character \xe2\x82": b"\xed\xa0\x80",
    b"k" * 65_535: b"v" * (3 << 20),
    b"\x80": b"\x80" * 70_000,
}

# One pair of text, one of other bytes.
SMALL = {b"key": "wért\n".encode(), b"\x00\xff": b"\xfe"}

NDJSON = '{"key": "key", "value": "wért\\n"}\n{"key_base64": "AP8=", "value_base64": "/g=="}\n'.encode()

DUMP = bytes.fromhex(
    "534b454744554d50 01000000 00000000 eba6c60021e4b37a"
    "0566417d54daaa24 1c000000"
    "03000000 06000000 6b6579 77c3a972740a"
    "02000000 01000000 00ff fe"
    "3324c84485d5bb61 00000000 0200000000000000"
)

GOLDEN = {"ndjson": NDJSON, "dump": DUMP}


class Memory:
    """What export and import need of a store, in memory; counts the batches."""

    def __init__(self, pairs=()):
        self.pairs = dict(pairs)
        self.batches = []

    def scan(self, prefix=b""):
        return ((key, value) for key, value in self.pairs.items() if key.startswith(prefix))

    def set_many(self, pairs):
        self.batches.append(sum(len(key) + len(value) for key, value in pairs))
        self.pairs.update(pairs)


def exported(pairs, file_format):
    stream = io.BytesIO()
    export_store(Memory(pairs), stream, file_format=file_format)
    return stream.getvalue()


def imported(data, file_format):
    store = Memory()
    import_store(store, io.BytesIO(data), file_format=file_format)
    return store.pairs


def failure(data, file_format, tmp_path):
    """The error of importing a file that holds `data`, and what was set before it."""
    path = tmp_path / "damaged"
    path.write_bytes(data)
    store = Memory()
    with pytest.raises(StorageError) as caught:
        import_store(store, path, file_format=file_format)
    assert str(path) == caught.value.path
    return caught.value, store.pairs


def summed(data):
    return struct.pack("<Q", checksum(data)) + data


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_store_comes_back_from_a_file(file_format, tmp_path):
    with Store.open(tmp_path / "first") as first, Store.open(tmp_path / "second") as second:
        first.set_many(list(PAIRS.items()))
        second.set(b"other", b"stays")
        second.set(b"text", b"old")
        assert len(PAIRS) == export_store(first, tmp_path / "file", file_format=file_format)
        assert len(PAIRS) == import_store(second, str(tmp_path / "file"), file_format=file_format)
        assert PAIRS | {b"other": b"stays"} == dict(second.scan())


@pytest.mark.parametrize("file_format", FORMATS)
def test_only_keys_with_the_prefix_are_exported(file_format):
    stream = io.BytesIO()
    assert 2 == export_store(
        Memory({b"a": b"0", b"ab": b"1", b"b": b"2"}), stream, file_format=file_format, prefix=b"a"
    )
    assert {b"a": b"0", b"ab": b"1"} == imported(stream.getvalue(), file_format)


@pytest.mark.parametrize("file_format", FORMATS)
def test_no_pairs_make_a_file_that_is_read_as_none(file_format):
    assert {} == imported(exported({}, file_format), file_format)


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_bytes_of_a_file_are_pinned(file_format):
    assert GOLDEN[file_format] == exported(SMALL, file_format)
    assert SMALL == imported(GOLDEN[file_format], file_format)


@pytest.mark.parametrize("file_format", FORMATS)
@given(
    pairs=st.dictionaries(st.binary(max_size=20) | st.text().map(str.encode), st.binary() | st.text().map(str.encode))
)
def test_any_bytes_come_back(file_format, pairs):
    assert pairs == imported(exported(pairs, file_format), file_format)


def test_lines_are_json_objects_with_text_where_it_is_text():
    lines = exported(PAIRS, "ndjson").decode().split("\n")
    assert "" == lines.pop()
    named = [tuple(json.loads(line)) for line in lines]
    assert [("key", "value")] * 5 == named[:5]
    assert [("key_base64", "value_base64")] * 2 == named[5:7]
    assert [("key", "value"), ("key_base64", "value_base64")] == named[7:]


@pytest.mark.parametrize(
    "line",
    [
        '{"value": "v", "key": "k"}',
        '  {"key":"k","value":"v"}  \r',
        '{"key_base64": "aw==", "value_base64": "dg=="}',
        '{"key": "\\u006b", "value": "v"}',
    ],
)
def test_lines_that_others_wrote_are_read(line):
    assert {b"k": b"v"} == imported(line.encode(), "ndjson") == imported(line.encode() + b"\n", "ndjson")


def test_the_later_of_two_lines_with_one_key_counts():
    lines = '{"key": "k", "value": "1"}\n{"key_base64": "aw==", "value": "2"}\n'
    assert {b"k": b"2"} == imported(lines.encode(), "ndjson")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"   ",
        b"k v",
        b"null",
        b"12",
        b"NaN",
        b"[]",
        b'["key", "value"]',
        b'"kv"',
        b"{}",
        b'{"key": "k"}',
        b'{"value": "v"}',
        b'{"key": "k", "value": "v"',
        b'{"key": "k", "value": "v"} {}',
        b'{"key": "k", "value": "v", "more": 1}',
        b'{"key": "k", "key_base64": "aw==", "value": "v"}',
        b'{"key": "k", "value": null}',
        b'{"key": 1, "value": "v"}',
        b'{"key": ["k"], "value": "v"}',
        b'{"key": "k", "value_base64": "not base64"}',
        b'{"key": "k", "value_base64": "dg="}',
        b'{"key": "k", "value_base64": "d\xc3\xa9=="}',
        b'{"key": "k", "value_base64": 1}',
        b'{"key": "k", "value": "\\ud800"}',
        b'{"key": "k", "value": "\xff"}',
        b'\xef\xbb\xbf{"key": "k", "value": "v"}',
        b"[" * 100_000,
        b"9" * 10_000,
    ],
    ids=lambda line: repr(line[:50]),
)
def test_a_damaged_line_is_named(line, tmp_path):
    good = b'{"key": "a", "value": "b"}\n'
    error, pairs = failure(good * 2 + line + b"\n" + good, "ndjson", tmp_path)
    assert isinstance(error, CorruptError)
    assert "line 3 is damaged" in str(error)
    assert 2 * len(good) == error.offset
    assert {} == pairs


def test_a_file_of_lines_cut_anywhere_but_at_a_line_s_end_names_the_line(tmp_path):
    first, size = NDJSON.index(b"\n"), len(NDJSON)
    whole = {0: 0, first: 1, first + 1: 1, size - 1: 2}
    for end in range(size):
        if end in whole:
            assert dict(list(SMALL.items())[: whole[end]]) == imported(NDJSON[:end], "ndjson")
        else:
            error, _ = failure(NDJSON[:end], "ndjson", tmp_path)
            assert f"line {1 if end < first else 2} is damaged" in str(error)
            assert (0 if end < first else first + 1) == error.offset


def test_a_dump_cut_anywhere_is_corrupt(tmp_path):
    for end in range(len(DUMP)):
        error, pairs = failure(DUMP[:end], "dump", tmp_path)
        assert isinstance(error, CorruptError)
        assert 0 <= error.offset <= end
        assert pairs in ({}, SMALL)


def test_every_flipped_bit_of_a_dump_is_noticed(tmp_path):
    """In time: no pair of a damaged block is set."""
    for position in range(len(DUMP)):
        for bit in range(8):
            data = bytearray(DUMP)
            data[position] ^= 1 << bit
            error, pairs = failure(data, "dump", tmp_path)
            assert (FormatError if position < 8 else CorruptError) is type(error)
            assert 0 <= error.offset <= len(DUMP)
            assert pairs == (SMALL if position >= len(DUMP) - 20 else {})


def test_blocks_lost_repeated_or_added_are_noticed(tmp_path):
    data = exported({b"%d" % i: bytes(600_000) for i in range(4)}, "dump")
    header, last = data[:24], data[-20:]
    blocks = [data[24 + i * 600_021 : 24 + (i + 1) * 600_021] for i in range(4)]
    assert header + b"".join(blocks) + last == data
    for damaged in (blocks[:3], [*blocks, blocks[0]], []):
        error, pairs = failure(header + b"".join(damaged) + last, "dump", tmp_path)
        assert isinstance(error, CorruptError)
        assert "expected 4 pairs" in str(error)
        assert len(set(damaged)) == len(pairs)
    error, _ = failure(data + b"\0", "dump", tmp_path)
    assert (CorruptError, len(data)) == (type(error), error.offset)


@pytest.mark.parametrize(
    "block",
    [
        summed(struct.pack("<III", 9, 1, 1) + b"k"),
        summed(struct.pack("<III", 11, 1, 1) + b"kv!"),
        summed(struct.pack("<III", 8, 2**32 - 1, 2**32 - 1)),
        summed(struct.pack("<I", 3) + b"abc"),
        summed(struct.pack("<I", 2**32 - 1)),
        summed(struct.pack("<IQ", 0, 1)),
    ],
)
def test_blocks_that_contradict_themselves_are_corrupt(block, tmp_path):
    """With a checksum that holds, as only a faulty writer makes them."""
    error, pairs = failure(DUMP[:24] + block + DUMP[-20:], "dump", tmp_path)
    assert (CorruptError, 24, {}) == (type(error), error.offset, pairs)


def test_other_files_and_newer_dumps_are_refused(tmp_path):
    error, _ = failure(NDJSON, "dump", tmp_path)
    assert FormatError is type(error)
    error, _ = failure(DUMP, "ndjson", tmp_path)
    assert "line 1 is damaged" in str(error)
    header = struct.pack("<8sII", b"SKEGDUMP", 2, 0)
    error, _ = failure(header + struct.pack("<Q", checksum(header)) + DUMP[24:], "dump", tmp_path)
    assert VersionTooNewError is type(error)


@pytest.mark.parametrize("file_format", FORMATS)
def test_pairs_arrive_in_batches_of_a_mebibyte_or_of_one_pair(file_format):
    sizes = [10, 500_000, 600_000, 5 << 20, 1 << 20, 30, 40]
    pairs = {b"%d" % i: bytes([97]) * n for i, n in enumerate(sizes)}
    store = Memory()
    import_store(store, io.BytesIO(exported(pairs, file_format)), file_format=file_format)
    assert pairs == store.pairs
    assert [500_012, 600_001, (5 << 20) + 1, (1 << 20) + 1, 72] == store.batches


@pytest.mark.parametrize("file_format", FORMATS)
def test_memory_does_not_grow_with_the_file(file_format, tmp_path):
    class Large(Memory):
        def scan(self, prefix=b""):
            return ((prefix + b"%d" % i, bytes([97 + i % 20]) * 10_000) for i in range(4000))

        def set_many(self, pairs):
            self.batches.append(len(pairs))

    store = Large()
    tracemalloc.start()
    try:
        assert 4000 == export_store(store, tmp_path / "large", file_format=file_format)
        assert 4000 == import_store(store, tmp_path / "large", file_format=file_format)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 4000 == sum(store.batches)
    assert (tmp_path / "large").stat().st_size > 40_000_000
    assert peak < 12 << 20


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_export_that_fails_leaves_the_old_file(file_format, tmp_path):
    class Failing(Memory):
        def scan(self, prefix=b""):
            yield prefix + b"key", bytes(2 << 20)
            raise CorruptError("segment", "damaged")

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(CorruptError, match="segment"):
        export_store(Failing(), tmp_path / "file", file_format=file_format)
    assert b"old" == (tmp_path / "file").read_bytes()
    assert ["file"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_disk_s_refusals_name_the_file(file_format, tmp_path):
    with pytest.raises(StorageError, match="absent"):
        import_store(Memory(), tmp_path / "absent", file_format=file_format)
    with pytest.raises(StorageError, match="absent"):
        export_store(Memory(), tmp_path / "absent" / "file", file_format=file_format)
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(StorageError, match="/dev/full: can't write"):
        export_store(Memory(PAIRS), full, file_format=file_format)


def test_another_format_is_refused_before_anything_is_touched(tmp_path):
    for call in (export_store, import_store):
        with pytest.raises(ParameterError, match="file_format='csv'"):
            call(Memory(), tmp_path / "file", file_format="csv")
    assert [] == list(tmp_path.iterdir())
