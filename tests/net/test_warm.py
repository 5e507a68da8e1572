"""What a server does before its first client comes."""

from __future__ import annotations

import logging

import pytest

import skeg
from skeg.errors import StorageError
from skeg.net.serve import warm


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A machine on which nothing was compiled, as far as the server knows."""
    folder = tmp_path / "cache" / "kernels"
    monkeypatch.setattr(warm, "cache_folder", lambda: folder)
    monkeypatch.setattr(warm, "JIT_DISABLED", False)
    return folder


def test_kernels_are_compiled_once_on_a_machine(cache, monkeypatch):
    used = []
    monkeypatch.setattr(warm, "_use_everything", used.append)
    assert warm.compile_kernels()
    assert warm.compile_kernels()
    assert 1 == len(used)
    assert (cache / warm.MARK).exists()
    assert not used[0].parent.exists()


@pytest.mark.parametrize("error", [OSError("no space"), StorageError("x", "full")])
def test_a_server_starts_where_kernels_can_not_be_compiled_ahead(cache, monkeypatch, caplog, error):
    def fail(_):
        raise error

    monkeypatch.setattr(warm, "_use_everything", fail)
    with caplog.at_level(logging.WARNING, "skeg.server"):
        assert not warm.compile_kernels()
    assert str(error) in caplog.text
    assert not (cache / warm.MARK).exists()


def test_a_folder_that_keeps_nothing_is_found_out_before_a_minute_has_passed(cache, monkeypatch, caplog):
    cache.parent.mkdir()
    cache.write_bytes(b"")  # where a folder should be
    monkeypatch.setattr(warm, "_use_everything", pytest.fail)
    assert not warm.compile_kernels()
    assert "when they are needed" in caplog.text


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_what_changes_need_is_loaded_before_ports_open_if_there_may_be_any(cache, monkeypatch, tmp_path, mode):
    used = []
    skeg.open(tmp_path / "data").close()
    cache.mkdir(parents=True)
    (cache / warm.MARK).touch()
    monkeypatch.setattr(warm, "_use_everything", used.append)
    with skeg.open(tmp_path / "data", mode=mode) as database:
        warm.warm(database)
        assert (mode == "rw") == bool(used)
        maintenance = database.kv._parts.maintenance
        assert (mode == "rw") == (maintenance is not None and maintenance._has_kernels)


def test_everything_that_clients_may_ask_for_is_used(tmp_path):
    warm._use_everything(tmp_path / "data")
    with skeg.open(tmp_path / "data", mode="r") as database:
        assert [("disk", "disk"), ("flat", "flat")] == [(info.name, info.backend) for info in database.indexes()]


def test_a_damaged_index_is_logged_and_the_others_are_searched(tmp_path, caplog):
    warm._use_everything(tmp_path / "data")
    for file in (tmp_path / "data").rglob("vindex-flat/*"):
        if file.is_file():
            file.write_bytes(b"")
    with skeg.open(tmp_path / "data", mode="r") as database, caplog.at_level(logging.INFO, "skeg.server"):
        warm.warm(database)
    assert "index is damaged" in caplog.text
    assert "index is ready" in caplog.text
