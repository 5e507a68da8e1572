"""What a server was given is there when it is started again."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from skeg.errors import ServerError
from tests.net.serving import ServerProcess

KINDS = {"f32": "flat", "int8": "flat", "tq4": "disk", "binary": "flat", "tq2": "disk"}


def unit(rng, count, dim):
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def answers(server, queries):
    """Everything that a client can ask for."""
    with server.client() as client, server.binary_client() as binary:
        found = {"keys": {key: client.get(key) for key in client.scan_iter()}, "indexes": client.vindex_list()}
        found["count"] = client.dbsize(), binary.stats()["n_keys"]
        for name in KINDS:
            found[name] = [client.vsearch(name, query, k=8, l_search=60, with_payload=True) for query in queries]
            found[name] += [client.vsearch(name, queries[0], k=8, filter="n < 40", with_payload=True)]
            found[name] += [[hit.id for hit in binary.vsearch(name, query, k=8, l_search=60)] for query in queries]
            found[name] += [
                None if v is None else v.tobytes() for v in (client.vget(name, n) for n in range(0, 120, 4))
            ]
    return found


def test_everything_is_there(tmp_path, rng):
    """Keys of all sizes, vectors of all kinds, payloads; also after a second restart, in mode "serve"."""
    vectors, queries = unit(rng, 120, 32), unit(rng, 3, 32)
    values = {b"": b"", b"\x00\r\n\xff": b"\r\n", b"k" * 65535: b"long key", b"large": rng.bytes(3 << 20)}
    with ServerProcess(tmp_path / "data", "--shards", "3", "--durability", "os") as server:
        with server.client() as client, server.binary_client() as binary:
            for key, value in values.items():
                client.set(key, value)
            client.mset({b"key:%d" % n: b"%d" % n for n in range(500)})
            client.delete(*[b"key:%d" % n for n in range(100, 200)])
            client.incrby("counter", 41)
            client.incr("counter")
            binary.set(b"by frames", b"1")
            for kind, backend in KINDS.items():
                client.vindex_create(kind, 32, kind=kind, backend=backend)
                client.vmset(kind, [(n, vectors[n], b"n=%d" % n) for n in range(100)])
                client.vindex_consolidate(kind)
                client.vmset(kind, [(n, vectors[n], b"n=%d" % n) for n in range(100, 120)])
                client.vdel(kind, 7)
                client.vset(kind, 8, -vectors[8])
            client.vindex_create("dropped", 32)
            client.vindex_drop("dropped")
        before = answers(server, queries)
        assert 0 == server.stop()
    assert values.items() <= before["keys"].items()
    assert (406, 406) == before["count"]
    assert [b"42", b"1", None] == [before["keys"].get(key) for key in (b"counter", b"by frames", b"key:150")]
    assert [119] * 5 == [int(row["n_vectors"]) for row in before["indexes"]]
    for options in ([], ["--mode", "serve"]):
        with ServerProcess(tmp_path / "data", *options) as server:
            after = answers(server, queries)
            for name in before:
                assert before[name] == after[name], name


@pytest.fixture
def damaged(filled, tmp_path):
    """One fragment of the index *disk* can't be read any more."""
    data = shutil.copytree(filled[0], tmp_path / "data")
    (path,) = data.glob("shard-1/vindex-disk/*/index.skg")
    broken = bytearray(path.read_bytes())
    for at in range(64):
        broken[at] ^= 0x55
    path.write_bytes(broken)
    return data


@pytest.mark.parametrize("mode", ["rw", "serve"])
def test_a_damaged_index(damaged, filled, mode):
    """It is in quarantine, which everybody is told; everything else works, and it can be dropped."""
    vectors = filled[1]
    with ServerProcess(damaged, "--mode", mode, metrics=True) as server:
        assert "index=disk" in server.find("index is damaged")
        with server.client() as client, server.binary_client() as binary:
            states = {row["name"]: row.get("state") for row in client.vindex_list()}
            assert {"disk": "quarantined", "flat": None} == states
            assert ["state=quarantined", "state=ready"] == [
                client.info("vectors")[f"vindex_{name}"].split(",")[0] for name in ("disk", "flat")
            ]
            said = []
            for call in (
                lambda: client.vsearch("disk", vectors[0], k=1),
                lambda: client.vget("disk", 0),
                lambda: binary.vsearch("disk", vectors[0], k=1),
            ):
                with pytest.raises(ServerError, match="storage error: vindex 'disk': ") as error:
                    call()
                said.append(str(error.value))
                assert str(damaged) not in said[-1]  # paths stay with the operator
            assert b"value 9" == client.get("key:9")
            assert 9 == client.vsearch("flat", vectors[9], k=1)[0].id
            assert [200, 200] == [server.get(path)[0] for path in ("/metrics", "/readyz")]
            if mode == "rw":
                client.vindex_drop("disk")
                client.vindex_create("disk", 16, backend="disk", kind="f32")
                client.vset("disk", 1, vectors[1])
                assert [1] == [hit.id for hit in client.vsearch("disk", vectors[1], k=5)]
        assert 0 == server.stop()
    if mode == "rw":
        with ServerProcess(damaged) as server, server.client() as client:
            assert [1] == [hit.id for hit in client.vsearch("disk", vectors[1], k=5)]
