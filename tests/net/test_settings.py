from __future__ import annotations

import pytest

from skeg import ParameterError
from skeg.durability import Durability
from skeg.net.settings import ServerSettings


def test_the_defaults_listen_at_loopback_only():
    settings = ServerSettings()
    assert ("127.0.0.1", 6379, 7379, None) == (
        settings.addr, settings.port, settings.binary_port, settings.metrics_port,
    )  # fmt: skip
    assert Durability.SYNC is settings.default_durability


@pytest.mark.parametrize("addr", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_an_address_that_others_reach_needs_a_password(addr, tmp_path):
    with pytest.raises(ParameterError, match=r"addr=.*password"):
        ServerSettings(addr=addr)
    assert addr == ServerSettings(addr=addr, insecure=True).addr
    assert addr == ServerSettings(addr=addr, password_file=tmp_path / "password").addr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1), ("port", 65_536), ("binary_port", "7379"), ("mode", "readonly"), ("mode", "r"), ("workers", 0),
        ("processes", 0), ("processes", True), ("durability", "always"), ("max_clients", 0), ("idle_timeout_s", -1),
        ("stall_timeout_s", float("nan")), ("max_request_bytes", 10), ("log_level", "loud"), ("shards", 0),
        ("max_indexes", -1),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ParameterError, match=name):
        ServerSettings(**{name: value})


def test_several_processes_only_read():
    with pytest.raises(ParameterError, match="processes=2"):
        ServerSettings(processes=2)
    assert 2 == ServerSettings(processes=2, mode="serve").processes


def test_some_port_must_be_open():
    with pytest.raises(ParameterError, match="port"):
        ServerSettings(port=None, binary_port=None)


def test_an_unknown_setting_of_a_file_is_refused():
    assert 0 == ServerSettings.of({"port": 0}).port
    with pytest.raises(ParameterError, match="setting='ports'"):
        ServerSettings.of({"ports": 0})
