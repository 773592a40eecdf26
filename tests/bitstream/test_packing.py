import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream import Packed, pack, packed_size, unpack


def reference_pack(values, bits):
    """The whole stream as one big integer, value i shifted by i * bits."""
    stream = sum(value << (bits * i) for i, value in enumerate(values))
    return stream.to_bytes(packed_size(bits, len(values)), "little")


@st.composite
def values_and_bits(draw):
    bits = draw(st.integers(1, 32))
    return draw(st.lists(st.integers(0, 2**bits - 1), max_size=50)), bits


def test_the_example_of_the_docstring():
    assert pack([1, 2, 7], bits=3) == bytes([0b11_010_001, 0b0000000_1])


@settings(deadline=None)
@given(values_and_bits())
def test_packs_like_the_reference_and_back(case):
    values, bits = case
    data = pack(np.array(values, dtype=np.int64), bits)
    assert data == reference_pack(values, bits)
    unpacked = unpack(data, bits, len(values))
    assert unpacked.dtype == np.int64
    assert unpacked.tolist() == values


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint64])
def test_any_integer_type_packs_the_same(dtype):
    values = np.arange(100).reshape(4, 25)
    assert pack(values.astype(dtype), 7) == pack(values, 7)


def test_any_order_in_memory_packs_the_same():
    values = np.arange(100).reshape(4, 25)
    assert pack(np.asfortranarray(values), 7) == pack(values, 7)
    assert pack(values.T, 7) == pack(values.T.copy(), 7)


def test_sizes():
    assert [packed_size(10, count) for count in (0, 1, 2, 3, 4, 5)] == [0, 2, 3, 4, 5, 7]


@pytest.mark.parametrize("bits", [1, 10, 32])
@pytest.mark.parametrize("beyond", [-1, 2**32, -(2**63)])
def test_a_value_out_of_range_is_an_error(bits, beyond):
    low, high = min(0, beyond), max(0, beyond)
    message = f"values of {bits} bits must be 0 to {2**bits - 1}; got {low} to {high}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pack([0, beyond], bits)


def test_the_largest_value_fits_and_the_next_does_not():
    assert unpack(pack([1023], 10), 10, 1).tolist() == [1023]
    with pytest.raises(ValueError, match="values of 10 bits must be 0 to 1023; got 1024 to 1024"):
        pack([1024], 10)


def test_values_that_are_no_integers_are_an_error():
    with pytest.raises(ValueError, match="values must be integers; got float64"):
        pack([0.5], 10)


@pytest.mark.parametrize("bits", [0, 33, -1])
def test_bits_out_of_range_are_an_error(bits):
    with pytest.raises(ValueError, match=f"bits must be 1 to 32; got {bits}"):
        pack([0], bits)
    with pytest.raises(ValueError, match=f"bits must be 1 to 32; got {bits}"):
        unpack(b"\0", bits, 1)


def test_another_length_is_an_error():
    with pytest.raises(ValueError, match="3 values of 10 bits must be 4 bytes; got 5 bytes"):
        unpack(bytes(5), 10, 3)


@pytest.mark.parametrize("bit", [6, 7])
def test_a_bit_set_after_the_last_value_is_an_error(bit):
    data = bytes([0, 0, 0, 1 << bit])
    with pytest.raises(ValueError, match="the bits after the last value must be zero; got ones"):
        unpack(data, 10, 3)


def test_packed_chunks_hold_frame_after_frame():
    codes = np.random.default_rng(0).integers(0, 1024, (2, 3, 7))  # channels, stages, frames
    payload = Packed(10).encode(codes)
    in_order = [int(codes[c, q, t]) for t in range(7) for c in range(2) for q in range(3)]
    assert payload == reference_pack(in_order, 10)
    assert np.array_equal(Packed(10).decode(payload, 2, 3, 7), codes)
    assert Packed(10).fingerprint is None
