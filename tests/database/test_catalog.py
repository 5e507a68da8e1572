"""The catalogue of indexes: its bytes, and that nothing else passes for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_hexdigest

from skeg import CorruptError, FormatError, ParameterError, StorageError, VersionTooNewError
from skeg.catalog import (
    BACKENDS,
    NAME,
    Entry,
    check_name,
    folder_of,
    pack_catalog,
    read_catalog,
    unpack_catalog,
    write_catalog,
)
from skeg.signed import pack_signed

ENTRY = Entry(name="docs", dim=384, kind="tq4", backend="disk", metric="cosine", incarnation="00" * 15 + "a1")
FIELDS = {"dim": 384, "kind": "tq4", "backend": "disk", "metric": "cosine", "incarnation": "00" * 15 + "a1"}

names = st.text("abcXYZ019._-", min_size=1, max_size=12).filter(lambda name: name != "." and ".." not in name)
entries = st.builds(
    Entry,
    name=names,
    dim=st.integers(1, 65_536),
    kind=st.sampled_from(["f32", "int8", "tq4"]),
    backend=st.sampled_from(BACKENDS),
    metric=st.sampled_from(["cosine", "ip", "l2"]),
)


def signed(indexes, **others):
    return pack_signed({"format": "skeg-indexes", "version": 1, "indexes": indexes} | others)


def test_the_bytes_of_a_catalogue():
    rest = (
        b'"format":"skeg-indexes","indexes":{"docs":{"backend":"disk","dim":384,'
        b'"incarnation":"0000000000000000000000000000000000a1","kind":"tq4","metric":"cosine"}},"version":1}'
    ).replace(b'"0000000000000000000000000000000000a1"', b'"' + b"00" * 15 + b'a1"')
    digest = xxh3_64_hexdigest(b"{" + rest).encode()
    assert b'{"checksum":"' + digest + b'",' + rest == pack_catalog([ENTRY])
    assert {"docs": ENTRY} == unpack_catalog(pack_catalog([ENTRY]), "p")
    assert {} == unpack_catalog(pack_catalog([]), "p")


@given(st.lists(entries, max_size=4, unique_by=lambda entry: entry.name))
def test_any_catalogue_is_read_as_it_was_written(some):
    assert {entry.name: entry for entry in some} == unpack_catalog(pack_catalog(some), "p")


def test_any_bit_changed_is_noticed():
    data = pack_catalog([ENTRY])
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StorageError) as caught:
            unpack_catalog(bytes(changed), "p")
        assert isinstance(caught.value, CorruptError | FormatError)


def test_a_catalogue_cut_anywhere_is_noticed():
    data = pack_catalog([ENTRY])
    for length in range(len(data)):
        with pytest.raises(CorruptError):
            unpack_catalog(data[:length], "p")


def test_a_newer_version_is_named_whatever_it_holds():
    with pytest.raises(VersionTooNewError, match="expected version 1, found 2"):
        unpack_catalog(signed("something else", version=2), "p")


@pytest.mark.parametrize("version", [None, True, "1", 1.0, [1]])
def test_a_version_that_is_no_integer_is_damage(version):
    with pytest.raises(CorruptError, match="catalogue version"):
        unpack_catalog(signed({}, version=version), "p")


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0},
        {"dim": 65_537},
        {"dim": "3"},
        {"dim": True},
        {"kind": ""},
        {"kind": "../x"},
        {"kind": 3},
        {"backend": "ram"},
        {"metric": None},
        {"incarnation": "short"},
        {"incarnation": "G" * 32},
        {"more": 1},
    ],
)
def test_impossible_values_are_damage_though_the_checksum_holds(change):
    with pytest.raises(CorruptError, match="missing or out of range"):
        unpack_catalog(signed({"docs": FIELDS | change}), "p")


@pytest.mark.parametrize("missing", FIELDS)
def test_a_missing_field_is_damage(missing):
    fields = {name: value for name, value in FIELDS.items() if name != missing}
    with pytest.raises(CorruptError, match=f"missing or out of range .*{missing}"):
        unpack_catalog(signed({"docs": fields}), "p")


@pytest.mark.parametrize("indexes", [None, 3, ["docs"], {"docs": None}, {"docs": []}, {"../x": FIELDS}, {"": FIELDS}])
def test_indexes_that_are_no_object_of_objects_are_damage(indexes):
    with pytest.raises(CorruptError, match="missing or out of range"):
        unpack_catalog(signed(indexes), "p")


@pytest.mark.parametrize("format_", ["skeg-kv", None, 7])
def test_another_format_is_no_catalogue(format_):
    with pytest.raises(FormatError, match="not a catalogue of indexes"):
        unpack_catalog(signed({}, format=format_), "p")


def test_it_is_found_in_its_folder_and_may_be_missing(tmp_path):
    assert read_catalog(tmp_path) is None
    write_catalog(tmp_path, [ENTRY])
    assert {"docs": ENTRY} == read_catalog(tmp_path)
    assert [NAME] == [path.name for path in tmp_path.iterdir()]
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    with pytest.raises(StorageError, match="can't read"):
        read_catalog(tmp_path)


@pytest.mark.parametrize("name", ["a", "A-Z_0.9", ".hidden", "-x", "x.", "a" * 128, "a.building", "building-1"])
def test_names_that_can_be(tmp_path, name):
    assert name == check_name(name)
    (tmp_path / folder_of(name)).mkdir()
    assert len(folder_of(name)) <= 143


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a\\b",
            "a\0b",
            "a..b",
            "a b",
            "a\n",
            "é",
            "a::b",
            "a" * 129,
            "*",
            None,
            3,
            b"a",
        ),
        "docs.building-1-0123456789abcdef",
        "docs.replaced-1-0123456789abcdef",
    ],
)
def test_names_that_can_not_be(name):
    with pytest.raises(ParameterError, match="name="):
        check_name(name)
