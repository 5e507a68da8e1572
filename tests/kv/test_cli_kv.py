"""The commands `skeg kv`: bytes in and out, exit codes, and what they do beside a writer."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from skeg import cli
from skeg.kv.store import Store

# Text, text with a line end, text of another script, bytes that are no text.
PAIRS = {
    b"plain": b"value",
    b"plain/lines": b"two\nlines\t\\",
    "plain/ключ".encode(): "鍵".encode(),
    b"\xff\0": b"\xfe",
}


def run(*arguments, code=0, stdin=b""):
    """Result of `skeg kv ARGUMENTS`, which has to end with this exit code and without a traceback."""
    result = CliRunner().invoke(cli.main, ["kv", *map(str, arguments)], input=stdin)
    assert code == result.exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def answer(*arguments, code=0, stdin=b""):
    """The JSON object that a command prints with --json."""
    return json.loads(run(*arguments, "--json", code=code, stdin=stdin).stdout)


@pytest.fixture
def store(tmp_path):
    """Folder of a store that holds `PAIRS`, closed."""
    with Store.open(tmp_path / "store") as opened:
        opened.set_many(list(PAIRS.items()))
    return tmp_path / "store"


def contents(path):
    with Store.open(path, mode="r") as opened:
        return dict(opened.scan())


def test_get_prints_the_bytes_of_the_value_and_nothing_else(store):
    assert b"two\nlines\t\\" == run("get", store, "plain/lines").stdout_bytes
    assert "鍵".encode() == run("get", store, "plain/ключ").stdout_bytes
    assert b"\xfe" == run("get", store, "ff00", "--hex").stdout_bytes
    assert b"\xfe" == run("get", store, "/wA=", "--base64").stdout_bytes
    assert {"key": "plain", "value": "value"} == answer("get", store, "plain")
    assert {"key_base64": "/wA=", "value_base64": "/g=="} == answer("get", store, "ff00", "--hex")


def test_get_of_a_missing_key_is_1_and_prints_nothing(store):
    assert b"" == run("get", store, "absent", code=1).stdout_bytes
    assert {"key": "absent", "value": None} == answer("get", store, "absent", code=1)


def test_set_makes_the_store_and_takes_text_and_other_spellings(tmp_path):
    assert "value bytes: 5 B" in run("set", tmp_path / "new", "a", "wért").stdout
    assert {"key_base64": "/w==", "value_bytes": 1} == answer("set", tmp_path / "new", "ff", "00", "--hex")
    run("set", tmp_path / "new", "Yg==", "", "--base64")
    assert {b"a": "wért".encode(), b"\xff": b"\0", b"b": b""} == contents(tmp_path / "new")


def test_set_takes_a_value_from_a_file_or_stdin_byte_for_byte(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)))
    run("set", tmp_path / "new", "file", "--file", tmp_path / "file")
    run("set", tmp_path / "new", "737464696e", "--hex", "--file", "-", stdin=b"\xff\r\n")
    assert {b"file": bytes(range(256)), b"stdin": b"\xff\r\n"} == contents(tmp_path / "new")


def test_arguments_that_are_no_text_arrive_as_they_are(tmp_path):
    """The shell passes any bytes."""
    command = [sys.executable, "-m", "skeg", "kv", "set", tmp_path / "new", b"\xff\xc3\xa9", b"\xe2\x82"]
    subprocess.run(command, check=True, capture_output=True)
    assert {b"\xff\xc3\xa9": b"\xe2\x82"} == contents(tmp_path / "new")


def test_del_says_whether_the_key_was_there(store):
    assert {"key": "plain", "deleted": True} == answer("del", store, "plain")
    assert {"key": "plain", "deleted": False} == answer("del", store, "plain")
    assert "deleted: True" in run("del", store, "ff00", "--hex").stdout
    assert sorted(PAIRS)[1:3] == sorted(contents(store))


def test_scan_prints_a_pair_a_line_escaped_or_spelled(store):
    text = run("scan", store).stdout.splitlines()
    assert sorted(
        ["plain\tvalue", "plain/lines\ttwo\\nlines\\t\\\\", "plain/ключ\t鍵", "\\udcff\\x00\t\\udcfe"]
    ) == sorted(text)
    in_hex = {tuple(map(bytes.fromhex, line.split("\t"))) for line in run("scan", store, "--hex").stdout.splitlines()}
    assert set(PAIRS.items()) == in_hex
    in_base64 = run("scan", store, "--base64").stdout.splitlines()
    assert set(PAIRS.items()) == {tuple(map(base64.b64decode, line.split("\t"))) for line in in_base64}


def test_scan_takes_a_prefix_a_limit_and_keys_only(store):
    assert {"plain/lines", "plain/ключ"} == set(run("scan", store, "--prefix", "plain/", "--keys-only").stdout.split())
    assert ["ff00"] == run("scan", store, "--prefix", "ff", "--hex", "--keys-only").stdout.split()
    for limit, printed in [(0, 0), (3, 3), (9, 4)]:
        assert printed == run("scan", store, "--limit", limit).stdout.count("\n")
        assert printed == len(answer("scan", store, "--limit", limit)["pairs"])


def test_scan_prints_one_json_object(store):
    pairs = answer("scan", store, "--prefix", "plain")["pairs"]
    assert {"plain": "value", "plain/lines": "two\nlines\t\\", "plain/ключ": "鍵"} == {
        p["key"]: p["value"] for p in pairs
    }
    assert [{"key_base64": "/wA="}] == answer("scan", store, "--prefix", "ff", "--hex", "--keys-only")["pairs"]
    assert {"pairs": []} == answer("scan", store, "--prefix", "absent")


def test_stats_tells_the_number_of_keys(store):
    assert 4 == answer("stats", store)["keys"]
    assert "keys: 4" in run("stats", store).stdout


def test_compact_prints_the_bytes_it_gave_back(store):
    with Store.open(store) as opened:
        for _ in range(3):
            opened.set(b"plain", bytes(100_000))
    assert 200_000 <= answer("compact", store)["reclaimed_bytes"]
    assert "reclaimed bytes: 0 B" in run("compact", store).stdout
    assert PAIRS | {b"plain": bytes(100_000)} == contents(store)


def test_verify_is_0_for_a_sound_store_and_1_for_a_damaged_one(store):
    assert f"{store}: no findings" in run("verify", store).stdout
    assert {"path": str(store), "ok": True, "findings": []} == answer("verify", store)
    log = next(store.rglob("*.log"))
    data = bytearray(log.read_bytes())
    data[data.index(b"value")] ^= 1
    log.write_bytes(data)
    assert str(log) in run("verify", store, code=1).stdout
    findings = answer("verify", store, code=1)
    assert (False, str(log)) == (findings["ok"], findings["findings"][0]["path"])
    manifest = store / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert str(manifest) in run("verify", store, code=1).stdout
    assert str(manifest) in run("stats", store, code=3).stderr


@pytest.mark.parametrize("file_format", [[], ["--format", "ndjson"], ["--format", "dump"]])
def test_what_was_exported_is_imported(store, tmp_path, file_format):
    file = tmp_path / "file"
    assert {"file": str(file), "pairs": 4} == answer("export", store, file, *file_format)
    assert {"store": str(tmp_path / "new"), "pairs": 4} == answer("import", tmp_path / "new", file, *file_format)
    assert PAIRS == contents(tmp_path / "new")


@pytest.mark.parametrize("file_format", ["ndjson", "dump"])
def test_a_stream_of_pairs_goes_through_stdout_and_stdin(store, tmp_path, file_format):
    """Nothing but the pairs is on stdout."""
    stream = run("export", store, "-", "--format", file_format, "--json").stdout_bytes
    run("export", store, tmp_path / "file", "--format", file_format)
    assert (tmp_path / "file").read_bytes() == stream
    assert 4 == answer("import", tmp_path / "new", "-", "--format", file_format, stdin=stream)["pairs"]
    assert PAIRS == contents(tmp_path / "new")


def test_export_takes_a_prefix(store):
    lines = run("export", store, "-", "--prefix", "plain/").stdout.splitlines()
    assert {"plain/lines", "plain/ключ"} == {json.loads(line)["key"] for line in lines}
    assert 1 == run("export", store, "-", "--prefix", "ff", "--hex").stdout.count("\n")


def test_a_damaged_file_of_pairs_is_3_and_named(store, tmp_path):
    file = tmp_path / "file"
    run("export", store, file, "--format", "dump")
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{file}, offset " in run("import", tmp_path / "new", file, "--format", "dump", code=3).stderr
    assert "line 1 is damaged" in run("import", tmp_path / "new", file, code=3).stderr
    two_lines = b'{"key": "k", "value": "v"}\nx\n'
    assert "offset 27: line 2 is damaged" in run("import", tmp_path / "new", "-", code=3, stdin=two_lines).stderr


def test_data_of_the_original_is_imported(tmp_path):
    """One record that it wrote, and one that it did not finish."""
    hello = bytes.fromhex("c8523159 2a00000000000000 05000000 05000000 00 68656c6c6f 776f726c64").ljust(128, b"\0")
    segment = tmp_path / "data" / "shard-0" / "0000000000.seg"
    segment.parent.mkdir(parents=True)
    segment.write_bytes(hello)
    command = ["import", tmp_path / "new", tmp_path / "data", "--format", "original"]
    assert {"store": str(tmp_path / "new"), "pairs": 1, "unfinished": []} == answer(*command)
    assert {b"hello": b"world"} == contents(tmp_path / "new")
    segment.write_bytes(hello + hello[:100])
    (place,) = answer(*command)["unfinished"]
    assert (str(segment), 128) == (place["path"], place["offset"])
    assert "left out" in run("import", tmp_path / "new", segment.parent, "--format", "original").stdout
    segment.with_name("0000000001.seg").write_bytes(hello)
    assert f"{segment}, offset 128: damaged" in run(*command, code=3).stderr
    assert "not data of the original" in run(*command[:2], tmp_path, "--format", "original", code=3).stderr
    assert "not a folder" in run(*command[:2], segment, "--format", "original", code=3).stderr
    assert str(segment.parent) in run(*command[:2], segment.parent, code=3).stderr
    assert {b"hello": b"world"} == contents(tmp_path / "new")


def test_reading_commands_work_beside_a_writer_and_others_say_who_it_is(store):
    with Store.open(store) as writer:
        writer.set(b"new", b"1")
        assert b"1" == run("get", store, "new").stdout_bytes
        assert 5 == answer("stats", store)["keys"]
        assert 5 == run("scan", store).stdout.count("\n")
        assert 5 == run("export", store, "-").stdout.count("\n")
        assert answer("verify", store)["ok"]
        for command in (["set", store, "k", "v"], ["del", store, "new"], ["compact", store]):
            assert "pid" in run(*command, code=3).stderr


@pytest.mark.parametrize("command", ["scan", "stats", "compact", "verify"])
def test_a_folder_that_is_no_store_is_3(command, tmp_path):
    (tmp_path / "notes.txt").write_text("no store")
    assert str(tmp_path) in run(command, tmp_path, code=3).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["get", "absent", "key"],
        ["get", "store"],
        ["get", "store", "xyz", "--hex"],
        ["get", "store", "a", "--base64"],
        ["get", "store", "é", "--base64"],
        ["set", "new", "key"],
        ["set", "new", "key", "value", "--file", "file"],
        ["set", "new", "key", "--file", "absent"],
        ["set", "new", "key", "xyz", "--hex"],
        ["set", "new", "k" * 65_536, "value"],
        ["del", "absent", "key"],
        ["scan", "store", "--limit", "-1"],
        ["export", "store", "file", "--format", "csv"],
        ["export", "store", "folder"],
        ["import", "new", "absent"],
        ["compact", "absent"],
        ["fly"],
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_wrong_use_is_2_and_changes_nothing(store, arguments, monkeypatch):
    monkeypatch.chdir(store.parent)
    Path("file").write_bytes(b"as it was")
    Path("folder").mkdir()
    result = run(*arguments, code=2)
    assert result.stderr.strip()
    assert result.stdout == ""
    assert b"as it was" == Path("file").read_bytes()
    assert PAIRS == contents("store")


@pytest.mark.parametrize("command", cli.main.commands["kv"].commands)
def test_every_command_has_help_and_json(command):
    shown = run(command, "--help").stdout
    assert "--json" in shown
    assert command in run("--help").stdout


def test_salvage_keeps_what_is_whole_and_names_what_is_lost(store):
    with Store.open(store) as opened:
        for n in range(20):
            opened.set(b"more %d" % n, b"x" * 50)
    for hint in store.glob("*/*.hint"):
        hint.unlink()
    (log,) = store.glob("*/*.log")
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    run("scan", store, code=3)
    figures = answer("salvage", store, code=1)
    (lost,) = figures["dropped"]
    assert (str(log), len(PAIRS) + 19) == (lost["path"], figures["keys"])
    assert figures["keys"] == len(contents(store))
    assert {"store": str(store), "keys": len(PAIRS) + 19, "dropped": []} == answer("salvage", store)
    assert log.with_name(log.name + ".damaged").exists()
