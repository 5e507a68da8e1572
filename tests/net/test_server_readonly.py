"""A server in mode "serve" writes nothing at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat

import numpy as np
import pytest

from skeg.errors import ServerError
from tests.net.serving import ServerProcess, eventually


@pytest.fixture(scope="module")
def killed(filled, tmp_path_factory):
    """What a server left that was killed while it wrote: a value log ends in the middle of a record."""
    path, vectors = filled
    data = shutil.copytree(path, tmp_path_factory.mktemp("killed") / "data")
    with ServerProcess(data, durability="os") as server, server.client() as client:
        client.mset({f"late:{n}": b"x" * 1000 for n in range(20)})
        client.vset("disk", 300, -vectors[0], payload="n=300")
        client.vdel("flat", 5)
        server.process.send_signal(signal.SIGKILL)
        server.wait()
    log = max(data.glob("shard-0/*.log"))
    os.truncate(log, len(log.read_bytes().rstrip(b"\0")) - 500)  # zeros are room for more
    return data


@pytest.fixture
def data(killed, tmp_path):
    return shutil.copytree(killed, tmp_path / "data")


def state(folder):
    """Everything that writing would change; the times of folders tell of files that came and went."""
    return {
        path.relative_to(folder): (
            stat.filemode(path.stat().st_mode),
            path.stat().st_mtime_ns,
            path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in [folder, *folder.rglob("*")]
    }


def use(server, vectors):
    """Read and search in every way, and try to write in every way."""
    with server.client() as client, server.binary_client() as binary:
        assert [b"value 7", b"value 299", None] == client.mget(["key:7", "key:299", "nothing"])
        assert b"value 7" == binary.get(b"key:7")
        assert {b"key:%d" % n for n in range(300)} == {*client.scan_iter("key:*")}
        assert [7, b"n=7"] == [getattr(client.vsearch("disk", vectors[7], k=1, with_payload=True)[0], a)
                               for a in ("id", "payload")]  # fmt: skip
        assert [300] == [hit.id for hit in client.vsearch("disk", vectors[7], k=3, filter="n = 300")]
        assert 7 == binary.vsearch("flat", vectors[7], k=1)[0].id
        assert (None, 301, 299) == (client.vget("flat", 5), *(int(i["n_vectors"]) for i in client.vindex_list()))
        assert 15 == len([*client.scan_iter("late:*")])  # the part of one shard was torn, so none of it is there
        np.testing.assert_array_equal(vectors[5:], [client.vget("disk", n) for n in range(5, 300)])
        assert "skeg_ops_total" in client.skeg_stats()
        writes = [
            ["SET", "k", "v"], ["SET", "key:7", "v", "XX"], ["SETNX", "k", "v"], ["GETSET", "key:7", "v"],
            ["GETDEL", "key:7"], ["APPEND", "key:7", "v"], ["MSET", "k", "v"], ["INCR", "n"], ["DECRBY", "n", 1],
            ["DEL", "key:7"], ["SKEG.VINDEX.CREATE", "new", 8, "f32", "flat"], ["SKEG.VINDEX.DROP", "flat"],
            ["SKEG.VINDEX.CONSOLIDATE", "disk"], ["SKEG.VSET", "flat", 1, vectors[0].tobytes()],
            ["SKEG.VMSET", "flat", 1, vectors[0].tobytes(), ""], ["SKEG.VDEL", "flat", 1],
        ]  # fmt: skip
        for words in writes:
            with pytest.raises(ServerError, match="server is in serve mode") as refused:
                client.execute(*words)
            assert "READONLY" == refused.value.code
        for write in (
            lambda: binary.set(b"k", b"v"), lambda: binary.delete(b"key:7"), lambda: binary.mset({b"k": b"v"}),
            lambda: binary.vset("flat", 1, vectors[0]), lambda: binary.vdel("flat", 1),
            lambda: binary.vindex_drop("flat"), lambda: binary.vindex_create("new", 8),
        ):  # fmt: skip
            with pytest.raises(ServerError, match="server is in serve mode"):
                write()


@pytest.mark.parametrize("processes", [1, 2])
def test_every_file_stays_as_it_was(data, filled, processes):
    before = state(data)
    with ServerProcess(data, "--mode", "serve", "--processes", str(processes), metrics=True) as server:
        use(server, filled[1])
        eventually(lambda: 'skeg_ops_total{op="get"}' in server.get("/metrics")[1])
        assert 200 == server.get("/readyz")[0]
        assert before == state(data)
        assert 0 == server.stop()
    assert before == state(data)


def test_a_folder_that_nobody_may_write_to(data, filled):
    folders = [data, *(path for path in data.rglob("*") if path.is_dir())]
    for path in data.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    for path in folders:
        path.chmod(0o555)
    try:
        before = state(data)
        assert os.geteuid() == 0 or not os.access(data, os.W_OK)
        with ServerProcess(data, "--mode", "serve") as server:
            use(server, filled[1])
        assert before == state(data)
    finally:
        for path in folders:
            path.chmod(0o755)
