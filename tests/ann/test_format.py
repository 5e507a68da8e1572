"""The manifest and the frame of an index: read back as written, refused when anything is off."""

from __future__ import annotations

import errno
import json
import os

import attrs
import numpy as np
import pytest

from skeg import CorruptError, FormatError, ParameterError, SkegError, StorageError, VersionTooNewError, files
from skeg.ann import format as index_format
from skeg.ann.format import (
    ANY,
    FORMAT,
    HOT,
    MANIFEST,
    MANIFEST_BYTES_MAX,
    VECTORS,
    VERSION,
    Manifest,
    check_shapes,
    open_file,
    pack_manifest,
    read_manifest,
    unpack_manifest,
    write_manifest,
)
from skeg.binary import canonical_json, checksum
from skeg.container import Container, Section, write_container

GIVEN = Manifest(
    backend="disk",
    dim=3,
    count=7,
    metric="cosine",
    kind="tq4",
    files={VECTORS: 100, HOT: 200},
    build={"alpha": 1e-07, "seed": 2**63 - 1, "max_degree": 64},
    search={"list_size": 64, "rerank": 24},
)
GOLDEN = (
    b'{"backend":"disk","build":{"alpha":1e-07,"max_degree":64,"seed":9223372036854775807},'
    b'"checksum":"e251b85e6694ff9a","count":7,"dim":3,"files":{"index.skg":200,"vectors.skg":100},"format":"skeg-index",'
    b'"kind":"tq4","metric":"cosine","search":{"list_size":64,"rerank":24},"segment":"segment-000001","version":[1,0]}'
)


def fields_of(manifest):
    return {**attrs.asdict(manifest, filter=lambda field, _: field.name != "live"), "version": list(manifest.version)}


def signed(fields):
    """Bytes of a manifest of these fields, under a valid checksum."""
    digest = f"{checksum(canonical_json('', fields)):016x}"
    return canonical_json("", {**fields, "checksum": digest})


def test_the_bytes_are_those_of_the_first_version():
    assert GOLDEN == pack_manifest(GIVEN)
    assert GIVEN == unpack_manifest(GOLDEN, "x")
    assert signed(fields_of(GIVEN)) == GOLDEN


def test_every_flip_of_a_bit_is_noticed():
    """Even one that says the same in other words, as 1E-07 for 1e-07."""
    for position in range(len(GOLDEN)):
        for bit in range(8):
            damaged = bytearray(GOLDEN)
            damaged[position] ^= 1 << bit
            with pytest.raises((CorruptError, FormatError)) as caught:
                unpack_manifest(bytes(damaged), "some/path")
            assert "some/path" == caught.value.path


def test_every_truncation_is_noticed():
    for length in range(len(GOLDEN)):
        with pytest.raises(CorruptError):
            unpack_manifest(GOLDEN[:length], "x")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b"{" * 100_000,
        b"\xff\xfe\x00",
        b'{"format":"other"}',
        b'{"format":"skeg-index"}',
        b'{"format":"skeg-index","version":[1,NaN]}',
        b'{"format":"skeg-index","version":[1,0],"x":Infinity}',
        b'{"format":"skeg-index","version":[1,0],"x":"\\ud800"}',
        b'{"format":"skeg-index","version":1}',
        b'{"format":"skeg-index","version":[1]}',
        b'{"format":"skeg-index","version":[1,true]}',
        b'{"format":"skeg-index","version":["1","0"]}',
        json.dumps(json.loads(GOLDEN)).encode(),  # with spaces
        GOLDEN + b"\n",
        GOLDEN + GOLDEN,
    ],
    ids=lambda data: data[:40].decode("latin-1"),
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises((CorruptError, FormatError)) as caught:
        unpack_manifest(data, "some/path")
    assert "some/path" == caught.value.path


@pytest.mark.parametrize("name", [f.name for f in attrs.fields(Manifest) if f.name not in {"segment", "live"}])
def test_a_missing_field_is_named(name):
    fields = fields_of(GIVEN)
    del fields[name]
    if name in {"format", "version"}:
        with pytest.raises((FormatError, CorruptError), match=name):
            unpack_manifest(signed(fields), "x")
    else:
        with pytest.raises(CorruptError, match=name):
            unpack_manifest(signed(fields), "x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dim", 0),
        ("dim", -1),
        ("dim", "3"),
        ("dim", 3.0),
        ("dim", None),
        ("count", -1),
        ("count", True),
        ("metric", "dot"),
        ("metric", ["cosine"]),
        ("segment", "../other"),
        ("segment", "/etc"),
        ("segment", "segment-1"),
        ("segment", 1),
        ("files", []),
        ("files", {HOT: -1}),
        ("files", {HOT: "1"}),
        ("build", 1),
        ("search", None),
        ("backend", "tree"),
        ("backend", []),
    ],
)
def test_a_field_with_a_value_that_cannot_be_is_named(name, value):
    with pytest.raises((CorruptError, FormatError), match=name):
        unpack_manifest(signed({**fields_of(GIVEN), name: value}), "x")


def test_a_newer_major_version_says_so_before_anything_else():
    data = canonical_json("", {"format": FORMAT, "version": [2, 0], "anything": "else"})
    with pytest.raises(VersionTooNewError, match=r"newer skeg: expected version 1.x, found \[2, 0\]"):
        unpack_manifest(data, "x")


def test_an_older_major_version_is_refused():
    with pytest.raises(FormatError, match=r"found \[0, 9\]") as caught:
        unpack_manifest(signed({**fields_of(GIVEN), "version": [0, 9]}), "x")
    assert not isinstance(caught.value, VersionTooNewError)


def test_a_newer_minor_version_may_say_more():
    data = signed({**fields_of(GIVEN), "version": [VERSION[0], 9], "more": {"a": 1}})
    assert attrs.evolve(GIVEN, version=(VERSION[0], 9)) == unpack_manifest(data, "x")


def test_a_manifest_that_cannot_be_is_not_made():
    for name, value in (("dim", 0), ("count", -1), ("metric", "dot"), ("segment", "a/b"), ("files", {"a": 0.5})):
        with pytest.raises(ParameterError, match=name):
            attrs.evolve(GIVEN, **{name: value})
    with pytest.raises(ParameterError, match="manifest"):
        pack_manifest(attrs.evolve(GIVEN, build={"alpha": float("nan")}))


def test_written_and_read_back(tmp_path):
    write_manifest(tmp_path, GIVEN)
    assert GIVEN == read_manifest(tmp_path)
    assert [MANIFEST] == os.listdir(tmp_path)
    write_manifest(tmp_path, attrs.evolve(GIVEN, count=8))
    assert 8 == read_manifest(str(tmp_path)).count


def test_a_manifest_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    write_manifest(tmp_path, GIVEN)

    def fails(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("_write", "fsync_file"):
        with monkeypatch.context() as patch:
            patch.setattr(files, name, fails)
            with pytest.raises(StorageError, match="No space"):
                write_manifest(tmp_path, attrs.evolve(GIVEN, count=8))
        assert GIVEN == read_manifest(tmp_path)
        assert [MANIFEST] == os.listdir(tmp_path)


def test_a_folder_without_a_manifest_is_no_index(tmp_path):
    (tmp_path / "file").touch()
    for path, problem in ((tmp_path, "no manifest.json"), (tmp_path / "x", "no such"), (tmp_path / "file", "not an")):
        with pytest.raises(FormatError, match=problem) as caught:
            read_manifest(path)
        assert str(path) == caught.value.path


def test_a_huge_manifest_is_not_read(tmp_path, monkeypatch):
    (tmp_path / MANIFEST).write_bytes(b" " * (MANIFEST_BYTES_MAX + 1))
    with pytest.raises(FormatError, match="too large"):
        read_manifest(tmp_path)


def test_a_manifest_that_cannot_be_read_is_a_storage_error(tmp_path):
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(StorageError, match="can't read"):
        read_manifest(tmp_path)


# The files that a manifest names


def folder_of(tmp_path, **sizes):
    """A segment with one small container under both names, and its manifest."""
    place = tmp_path / GIVEN.segment
    place.mkdir()
    for name in (VECTORS, HOT):
        with write_container(place / name, {}, [Section("vectors", "f4", (7, 3))]) as writer:
            writer.append("vectors", np.ones((7, 3), np.float32))
    true = {name: (place / name).stat().st_size for name in (VECTORS, HOT)}
    return attrs.evolve(GIVEN, files={**true, **sizes})


def test_files_are_opened_when_their_size_is_right(tmp_path):
    manifest = folder_of(tmp_path)
    with open_file(tmp_path, manifest, VECTORS) as container:
        assert (7, 3) == container.array("vectors").shape


def test_files_that_do_not_agree_with_the_manifest_are_refused(tmp_path):
    manifest = folder_of(tmp_path, **{HOT: 1})
    with pytest.raises(CorruptError, match="another size than the manifest says"):
        open_file(tmp_path, manifest, HOT)
    with pytest.raises(CorruptError, match="does not name other"):
        open_file(tmp_path, manifest, "other.skg")
    (tmp_path / manifest.segment / VECTORS).unlink()
    with pytest.raises(CorruptError, match="not there") as caught:
        open_file(tmp_path, manifest, VECTORS)
    assert caught.value.path.endswith(VECTORS)


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"vectors": ("f4", (7, 3))}, None),
        ({"vectors": ("f4", (ANY, 3))}, None),
        ({"vectors": ("f4", (7, 4))}, r"expected float32 \(7, 4\), found float32 \(7, 3\)"),
        ({"vectors": ("f4", (7,))}, "does not fit"),
        ({"vectors": ("f8", (7, 3))}, "does not fit"),
        ({"vectors": ("f4", (7, 3)), "ids": ("u8", (7,))}, "section 'ids' is missing"),
    ],
)
def test_sections_must_have_the_shapes_that_a_reader_relies_on(tmp_path, wanted, problem):
    folder_of(tmp_path)
    with Container.open(tmp_path / GIVEN.segment / VECTORS) as container:
        if problem is None:
            check_shapes(container, wanted)
        else:
            with pytest.raises(CorruptError, match=problem):
                check_shapes(container, wanted)


def test_the_documented_sections_are_those_that_are_written(tmp_path):
    """The tables of the format's docstring, beside an index."""
    from tests.indexes import built, sections

    text = index_format.__doc__
    for name in (VECTORS, HOT):
        for section in sections(built(n=300), name):
            assert f"\n{section} " in text, section
    assert issubclass(FormatError, SkegError)
