import re

import pytest
import torch
from einops import rearrange

from codec.tokens import to_codes

CODES = torch.arange(24).reshape(2, 3, 4)  # batch, quantizers, frames


@pytest.mark.parametrize("axes", ["b q t", "q b t", "b t q", "t q b"])
def test_every_order_comes_back_to_the_one_of_the_project(axes):
    assert torch.equal(to_codes(rearrange(CODES, f"b q t -> {axes}"), axes), CODES)


def test_codes_of_one_recording_become_a_batch_of_one():
    assert torch.equal(to_codes(CODES[0], "q t"), CODES[:1])


def test_a_list_of_frames_is_taken_as_it_is():
    assert to_codes([[1, 5], [2, 6], [3, 7]], "t q").tolist() == [[[1, 2, 3], [5, 6, 7]]]


def test_a_flat_list_needs_the_number_of_quantizers():
    assert to_codes([1, 5, 2, 6, 3, 7], "(t q)", num_quantizers=2).tolist() == [[[1, 2, 3], [5, 6, 7]]]
    with pytest.raises(
        ValueError, match=r"axes must name those of the codes by b, q, t; got '\(t q\)' for shape \(6,\)"
    ):
        to_codes([1, 5, 2, 6, 3, 7], "(t q)")


def test_codes_of_a_single_codebook_get_an_axis_for_it():
    assert to_codes(CODES[:, 0], "b t").shape == (2, 1, 4)
    assert to_codes(CODES[:1], "1 q t").shape == (1, 3, 4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32])
def test_any_integers_become_int64(dtype):
    converted = to_codes(CODES.to(dtype), "b q t")
    assert converted.dtype == torch.int64
    assert torch.equal(converted, CODES)


@pytest.mark.parametrize("axes", ["b q", "b q x", "b q t t", "q t"])
def test_axes_that_do_not_fit_are_an_error(axes):
    message = f"axes must name those of the codes by b, q, t; got '{axes}' for shape (2, 3, 4): "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        to_codes(CODES, axes)


def test_codes_that_are_no_integers_are_an_error():
    with pytest.raises(ValueError, match=r"^codes must be integers; got torch\.float32$"):
        to_codes([[0.5]], "q t")
