"""Numbers, names and streams come back, and what is too large is refused before it takes memory."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.coding import fields
from lib.coding.fields import Reader, Streams


@given(st.integers(0, 2**63 - 1))
def test_numbers_come_back(value):
    reader = Reader(fields.integer(value))
    assert reader.integer(most=value) == value and reader.left() == 0
    if value:
        with pytest.raises(ValueError, match=f"{value} is announced where at most {value - 1} is possible"):
            Reader(fields.integer(value)).integer(most=value - 1)


@pytest.mark.parametrize("content", [b"", b"\x80", b"\xff" * 20])
def test_numbers_that_do_not_end_are_refused(content):
    with pytest.raises(ValueError, match=r"bytes are announced|longer than any size"):
        Reader(content).integer(most=2**63)


@pytest.mark.parametrize("text", ["", "code", "x" * 255])
def test_names_come_back(text):
    assert Reader(fields.name(text)).name() == text


@pytest.mark.parametrize("text", ["größe", "x" * 256])
def test_names_that_have_no_place_are_refused(text):
    with pytest.raises(ValueError, match="at most 255 characters of ASCII"):
        fields.name(text)


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match="not ASCII"):
        Reader(b"\x02\xff\xfe").name()


@given(st.lists(st.integers(0, 300), max_size=200), st.sampled_from(["fixed", "huffman", "best", "context"]))
def test_streams_come_back(symbols, coder):
    shape = torch.Size([len(symbols)])
    content = fields.stream(np.array(symbols, dtype=np.int64), coder, shape)
    reader = Reader(content)
    decode = reader.stream(most=len(symbols), shape=shape)
    assert reader.left() == 0 and decode().tolist() == symbols and decode().dtype == torch.int32
    if symbols:
        with pytest.raises(ValueError, match="is announced where at most"):
            Reader(content).stream(most=len(symbols) - 1, shape=shape)


def test_symbols_of_more_than_16_bits_are_refused():
    for symbols in ([2**16], [2**40, 0]):
        with pytest.raises(ValueError, match=f"the symbol {max(symbols)} cannot be written: at most 65535"):
            fields.stream(np.array(symbols), "best")


def test_fields_with_names_are_those_that_are_expected_once_each():
    table = fields.integer(2) + b"\0" * 8
    content = fields.integer(1) + fields.name("scale") + table
    assert Reader(content).named({"scale": 2, "zero": 1}, lambda most: most) == {"scale": 2}
    assert Reader(fields.integer(0)).named({}, Reader(b"").floats) == {}
    for names, says in (
        (["scale", "scale"], "'scale' is announced"),
        (["axis"], "accepted are scale, zero, each once"),
    ):
        reader = Reader(fields.integer(len(names)) + b"".join(fields.name(name) + table for name in names))
        with pytest.raises(ValueError, match=says):
            reader.named({"scale": 2, "zero": 2}, reader.floats)


def test_a_stream_is_decoded_when_it_is_asked_for():
    asked = []
    streams = Streams({name: lambda name=name: asked.append(name) or torch.zeros(1) for name in ("a", "b")})
    assert list(streams) == ["a", "b"] and len(streams) == 2 and "a" in streams and "c" not in streams and not asked
    assert streams["b"].tolist() == [0.0] and asked == ["b"]
    with pytest.raises(KeyError):
        streams["c"]
