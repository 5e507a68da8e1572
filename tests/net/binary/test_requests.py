"""Payloads of requests: exact bytes, exact texts of what is refused, nothing taken on trust."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.errors import ParameterError, ProtocolError
from skeg.net.binary import requests as rq
from skeg.net.binary.frames import Frame, Op
from skeg.net.binary.kinds import (
    NO_CODE,
    backend_of_byte,
    byte_of_backend,
    byte_of_kind,
    kind_of_byte,
    kinds_mask,
)
from skeg.net.binary.requests import decode_request, encode_request

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
NAMES = st.text(max_size=8).filter(lambda text: text.isprintable())
DATA = st.binary(max_size=12)
VECTORS = st.binary(max_size=5).map(lambda data: data * 4)

REQUESTS = st.one_of(
    *(st.builds(kind) for kind in (rq.Ping, rq.Stats, rq.Shards, rq.Flush, rq.VindexList, rq.NativeHello)),
    *(st.builds(kind, DATA) for kind in (rq.Auth, rq.Get, rq.Del, rq.Exists)),
    *(st.builds(kind, st.lists(DATA, max_size=4)) for kind in (rq.Mget, rq.Mexists)),
    st.builds(rq.Set, DATA, DATA),
    st.builds(rq.Mset, st.lists(st.tuples(DATA, DATA), max_size=4)),
    st.builds(rq.VindexCreate, NAMES, U32, st.integers(0, 255), st.integers(0, 255)),
    st.builds(rq.VindexDrop, NAMES),
    st.builds(rq.Vset, NAMES, U64, VECTORS),
    *(st.builds(kind, NAMES, U64) for kind in (rq.Vget, rq.Vdel)),
    st.builds(rq.Vsearch, NAMES, U32, VECTORS, U32),
)


def frame(op, payload, version=2):
    return Frame(version, int(op), 0, 1, payload)


def refusal(op, payload, version=2):
    with pytest.raises(ProtocolError) as caught:
        decode_request(frame(op, payload, version))
    return str(caught.value)


# Bytes

EXAMPLES = [
    (rq.Ping(), Op.PING, ""),
    (rq.Get(b"foo"), Op.GET, "0300 666f6f"),
    (rq.Get(b""), Op.GET, "0000"),
    (rq.Del(b"foo"), Op.DEL, "0300 666f6f"),
    (rq.Exists(b"foo"), Op.EXISTS, "0300 666f6f"),
    (rq.Set(b"foo", b"bar"), Op.SET, "0300 03000000 666f6f 626172"),
    (rq.Mget([b"a", b"bb"]), Op.MGET, "02000000 0100 61 0200 6262"),
    (rq.Mexists([b"a"]), Op.MEXISTS, "01000000 0100 61"),
    (rq.Mset([(b"a", b"xy"), (b"", b"")]), Op.MSET, "02000000 0100 02000000 61 7879 0000 00000000"),
    (rq.VindexCreate("v", 4, 1, 1), Op.VINDEX_CREATE, "0100 76 04000000 01 01"),
    (rq.VindexDrop("é"), Op.VINDEX_DROP, "0200 c3a9"),
    (rq.Vset("v", 7, struct.pack("<2f", 1, 0)), Op.VSET, "0100 76 0700000000000000 02000000 0000803f 00000000"),
    (rq.Vget("v", 2**64 - 1), Op.VGET, "0100 76 ffffffffffffffff"),
    (rq.Vdel("v", 7), Op.VDEL, "0100 76 0700000000000000"),
    (
        rq.Vsearch("v", 1, struct.pack("<2f", 1, 0)),
        Op.VSEARCH,
        "0100 76 01000000 02000000 0000803f 00000000 00000000",
    ),
    (rq.Auth(b"pw"), Op.AUTH, "0200 7077"),
]


@pytest.mark.parametrize(("request_", "op", "payload"), EXAMPLES)
def test_examples_byte_for_byte(request_, op, payload):
    assert (op, bytes.fromhex(payload)) == encode_request(request_)
    decoded = decode_request(frame(op, bytes.fromhex(payload)))
    assert (type(request_), request_) == (type(decoded), decoded)


@given(request_=REQUESTS, behind=st.binary(max_size=5))
def test_a_request_comes_back_and_what_is_behind_it_is_ignored(request_, behind):
    op, payload = encode_request(request_)
    if op is Op.VSEARCH:
        assert request_ == decode_request(frame(op, payload + behind))
        behind = b""
    decoded = decode_request(frame(op, payload + behind))
    assert (type(request_), request_) == (type(decoded), decoded)


@pytest.mark.parametrize(
    ("behind", "l_search"), [(b"", 0), (b"\1", 0), (b"\1\1\1", 0), (b"\0\0\0\0", 0), (b"\7\0\0\0", 7)]
)
def test_l_search_may_be_left_out(behind, l_search):
    head = b"\1\0v" + struct.pack("<II2f", 1, 2, 1, 0)
    assert rq.Vsearch("v", 1, struct.pack("<2f", 1, 0), l_search) == decode_request(frame(Op.VSEARCH, head + behind))


# What is refused

V = b"\1\0v"
U64_7 = b"\7" + b"\0" * 7

BAD = [
    (Op.GET, b"", "key payload too short"),
    (Op.DEL, b"\1", "key payload too short"),
    (Op.EXISTS, b"\3\0a", "key payload truncated"),
    (Op.AUTH, b"\xff\xff", "key payload truncated"),
    (Op.SET, b"\0\0\0\0\0", "set payload too short"),
    (Op.SET, b"\1\0\1\0\0\0a", "set payload truncated"),
    (Op.SET, b"\0\0\xff\xff\xff\xff", "set payload truncated"),
    (Op.MGET, b"\0\0\0", "mget payload too short"),
    (Op.MGET, b"\xff\xff\xff\xff", "mget count exceeds payload"),
    (Op.MGET, b"\2\0\0\0\0\0\0", "mget count exceeds payload"),
    (Op.MGET, b"\2\0\0\0\2\0aa", "mget key header truncated"),
    (Op.MGET, b"\2\0\0\0\1\0a\0", "mget key header truncated"),
    (Op.MEXISTS, b"\1\0\0\0\3\0aa", "mget key truncated"),
    (Op.MSET, b"\0\0\0", "mset payload too short"),
    (Op.MSET, b"\1\0\0\0\0\0\0\0\0", "mset count exceeds payload"),
    (Op.MSET, b"\2\0\0\0\6\0\0\0\0\0" + b"k" * 6, "mset pair header truncated"),
    (Op.MSET, b"\1\0\0\0\1\0\1\0\0\0a", "mset pair truncated"),
    (Op.VINDEX_DROP, b"\1", "vector name header truncated"),
    (Op.VINDEX_DROP, b"\2\0a", "vector name truncated"),
    (Op.VINDEX_CREATE, V + b"\1\0\0", "vector u32 field truncated"),
    (Op.VINDEX_CREATE, V + b"\1\0\0\0", "vindex kind byte missing"),
    (Op.VINDEX_CREATE, V + b"\1\0\0\0\1", "vindex backend byte missing"),
    (Op.VSET, V + b"\1", "vector u64 field truncated"),
    (Op.VSET, V + U64_7 + b"\2\0\0", "vector dim header truncated"),
    (Op.VSET, V + U64_7 + b"\2\0\0\0" + bytes(7), "vector body truncated"),
    (Op.VSET, V + U64_7 + b"\xff\xff\xff\xff", "vector body truncated"),
    (Op.VGET, V + bytes(7), "vector u64 field truncated"),
    (Op.VDEL, V, "vector u64 field truncated"),
    (Op.VSEARCH, V, "vector u32 field truncated"),
    (Op.VSEARCH, V + b"\1\0\0\0", "vector dim header truncated"),
    (Op.VSEARCH, V + b"\1\0\0\0\1\0\0\0", "vector body truncated"),
]


@pytest.mark.parametrize(("op", "payload", "text"), BAD)
def test_texts_of_payloads_that_are_refused(op, payload, text):
    assert f"invalid payload: {text}" == refusal(op, payload)


@pytest.mark.parametrize("op", [Op.VINDEX_CREATE, Op.VINDEX_DROP, Op.VSET, Op.VGET, Op.VDEL, Op.VSEARCH])
def test_names_are_utf_8(op):
    assert "index name not utf-8" == refusal(op, b"\1\0\xff" + bytes(20))


def test_replies_are_no_requests():
    texts = ["op Ok not implemented", "op Err not implemented", "op Continued not implemented"]
    assert texts == [refusal(op, b"") for op in (Op.OK, Op.ERR, Op.CONTINUED)]


def test_native_hello_belongs_to_version_2():
    assert "native hello requires protocol version 2" == refusal(Op.NATIVE_HELLO, b"", version=1)


@pytest.mark.parametrize("op", [Op.MGET, Op.MEXISTS, Op.MSET])
def test_a_count_takes_no_memory(op):
    payload = b"\xff\xff\xff\xff" + bytes(1000)
    tracemalloc.start()
    text = refusal(op, payload)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "count exceeds payload" in text
    assert peak < 16_384


@given(op=st.sampled_from(Op), version=st.sampled_from([1, 2]), payload=st.binary(max_size=60))
def test_random_payloads_are_requests_or_refused(op, version, payload):
    try:
        request = decode_request(frame(op, payload, version))
    except ProtocolError:
        return
    assert request == decode_request(frame(*encode_request(request)))


@given(request_=REQUESTS, cut=st.integers(1, 60))
def test_a_payload_that_is_cut_is_refused(request_, cut):
    op, payload = encode_request(request_)
    if not payload or (op is Op.VSEARCH and cut <= 4):
        return  # nothing to cut, or what may be left out
    with pytest.raises(ProtocolError, match="invalid payload"):
        decode_request(frame(op, payload[: max(0, len(payload) - cut)]))


# What can't be asked

TOO_LONG = [
    (rq.Get(bytes(65_536)), "key='65536 bytes': expected at most 65535 bytes"),
    (rq.Mget([b"", bytes(65_536)]), "key='65536 bytes': expected at most 65535 bytes"),
    (rq.Mset([(bytes(65_536), b"")]), "key='65536 bytes': expected at most 65535 bytes"),
    (rq.VindexDrop("n" * 65_536), "name='65536 bytes': expected at most 65535 bytes"),
    (rq.Vset("v", 1, b"abc"), "vector='3 bytes': expected 4 bytes for each component"),
    (rq.Set(b"", bytes(16_777_211)), "request='Set of 16777217 bytes': expected at most 16777216 bytes"),
]


@pytest.mark.parametrize(("request_", "text"), TOO_LONG, ids=lambda value: str(value)[:30])
def test_what_does_not_fit_a_frame_is_refused_before_it_is_sent(request_, text):
    with pytest.raises(ParameterError) as caught:
        encode_request(request_)
    assert text == str(caught.value)


def test_the_longest_value_fits():
    op, payload = encode_request(rq.Set(b"k", bytes(16_777_209)))
    assert (Op.SET, 16_777_216) == (op, len(payload))


# Kinds and backends


def test_kinds_by_version():
    assert ["f32", "int8", "binary", None, None, None, None] == [
        kind_of_byte(1, byte) for byte in (0, 1, 2, 3, 4, 5, 255)
    ]
    assert ["f32", "int8", "binary", "tq1", "tq2", "tq4", None] == [kind_of_byte(2, byte) for byte in range(7)]
    names = ["f32", "int8", "binary", "tq1", "tq2", "tq4", "pq"]
    assert [0, 1, 2, NO_CODE, NO_CODE, NO_CODE, NO_CODE] == [byte_of_kind(1, kind) for kind in names]
    assert [0, 1, 2, 3, 4, 5, NO_CODE] == [byte_of_kind(2, kind) for kind in names]
    assert 0b111111 == kinds_mask()


def test_backends():
    assert ["flat", "disk", None, None] == [backend_of_byte(byte) for byte in (0, 1, 2, 255)]
    assert [0, 1] == [byte_of_backend(backend) for backend in ("flat", "disk")]
