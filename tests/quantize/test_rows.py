import itertools

import pytest
import torch
from torch import Tensor

from codec.quantize.rows import to_rows

DIM = 4

each_positions = pytest.mark.parametrize("positions", [(), (5,), (3, 4), (2, 1, 3)])
each_layout = pytest.mark.parametrize("channel_last", [False, True])
each_mask = pytest.mark.parametrize("masked", [False, True])


def make(positions: tuple[int, ...], channel_last: bool, masked: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Vectors of 3 examples [3, *positions, dim], the same in their layout, and a mask."""
    last = torch.randn(3, *positions, DIM)
    mask = torch.rand(3, *positions) < 0.6 if masked else None
    return last, last if channel_last else last.movedim(-1, 1), mask


def real_indices(shape: tuple[int, ...], mask: Tensor | None) -> list[tuple[int, ...]]:
    """Of the real positions, in the order of their rows."""
    return [index for index in itertools.product(*map(range, shape)) if mask is None or mask[index]]


@each_positions
@each_layout
@each_mask
def test_there_is_a_row_for_each_real_position(positions: tuple[int, ...], channel_last: bool, masked: bool) -> None:
    last, x, mask = make(positions, channel_last, masked)
    rows, places = to_rows(x, DIM, channel_last, mask)
    indices = real_indices((3, *positions), mask)
    assert rows.shape == (len(indices), DIM)
    assert all(torch.equal(row, last[index]) for row, index in zip(rows, indices, strict=True))
    assert places.examples().tolist() == [index[0] for index in indices]


@each_positions
@each_layout
@each_mask
def test_rows_go_back_to_where_they_came_from(positions: tuple[int, ...], channel_last: bool, masked: bool) -> None:
    last, x, mask = make(positions, channel_last, masked)
    rows, places = to_rows(x, DIM, channel_last, mask)
    back = places.vectors(rows)
    assert back.shape == x.shape
    expected = last if mask is None else torch.where(mask.unsqueeze(-1), last, 0.0)
    assert torch.equal(back if channel_last else back.movedim(1, -1), expected)


@each_layout
def test_vectors_may_be_of_another_size_than_the_rows_were(channel_last: bool) -> None:
    _, x, mask = make((5,), channel_last, masked=True)
    rows, places = to_rows(x, DIM, channel_last, mask)
    assert places.vectors(rows[:, :2]).shape == ((3, 5, 2) if channel_last else (3, 2, 5))


@each_positions
@each_layout
@each_mask
@pytest.mark.parametrize("parts", [(), (2,), (2, 3)])
def test_codes_stand_before_the_positions(
    positions: tuple[int, ...], channel_last: bool, masked: bool, parts: tuple[int, ...]
) -> None:
    _, x, mask = make(positions, channel_last, masked)
    rows, places = to_rows(x, DIM, channel_last, mask)
    code_rows = torch.randint(1, 9, (len(rows), *parts))
    codes = places.codes(code_rows)
    assert codes.shape == (3, *parts, *positions)
    assert codes.dtype == torch.int64
    indices = real_indices((3, *positions), mask)
    for row, (example, *position) in zip(code_rows, indices, strict=True):
        assert torch.equal(codes[(example, *[slice(None)] * len(parts), *position)], row)
    assert (codes != 0).sum() == code_rows.numel()  # all others are padding
    assert torch.equal(places.code_rows(codes), code_rows)


@each_layout
def test_gradients_reach_the_real_positions_alone(channel_last: bool) -> None:
    _, x, mask = make((5,), channel_last, masked=True)
    x.requires_grad_()
    rows, places = to_rows(x, DIM, channel_last, mask)
    places.vectors(3 * rows).sum().backward()
    gradient = x.grad if channel_last else x.grad.movedim(1, -1)
    assert torch.equal(gradient, 3.0 * mask.unsqueeze(-1).expand(-1, -1, DIM))


def test_what_lies_in_the_padding_reaches_neither_rows_nor_gradient() -> None:
    x = torch.randn(2, DIM, 5)
    x[1, :, 2:] = float("nan")
    x.requires_grad_()
    rows, _ = to_rows(x, DIM, False, lengths=torch.tensor([5, 2]))
    rows.square().sum().backward()
    assert rows.shape == (7, DIM)
    assert rows.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.bfloat16])
def test_a_mask_may_be_of_any_type(dtype: torch.dtype) -> None:
    x, mask = torch.randn(2, DIM, 5), torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 1]])
    rows, _ = to_rows(x, DIM, False, mask.to(dtype))
    assert torch.equal(rows, torch.stack([x[0, :, 0], x[0, :, 1], x[0, :, 3], x[1, :, 4]]))


@each_layout
def test_lengths_are_the_mask_they_stand_for(channel_last: bool) -> None:
    _, x, _ = make((5,), channel_last, masked=False)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    (rows, places), (expected, others) = (
        to_rows(x, DIM, channel_last, lengths=torch.tensor([5, 2, 0])),
        to_rows(x, DIM, channel_last, mask),
    )
    assert torch.equal(rows, expected)
    assert torch.equal(places.vectors(rows), others.vectors(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rows_are_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(2, DIM, 5).to(dtype)
    for mask in (None, torch.ones(2, 5)):
        rows, _ = to_rows(x, DIM, False, mask)
        assert rows.dtype == torch.float32
        assert torch.equal(rows, x.movedim(1, -1).reshape(-1, DIM).float())


@each_layout
@pytest.mark.parametrize(("batch", "frames"), [(0, 5), (2, 0), (0, 0)])
def test_nothing_has_no_rows(channel_last: bool, batch: int, frames: int) -> None:
    x = torch.zeros(batch, frames, DIM) if channel_last else torch.zeros(batch, DIM, frames)
    for mask in (None, torch.ones(batch, frames)):
        rows, places = to_rows(x, DIM, channel_last, mask)
        assert rows.shape == (0, DIM)
        assert places.vectors(rows).shape == x.shape
        assert places.codes(torch.zeros(0, 3, dtype=torch.int64)).shape == (batch, 3, frames)
        assert places.examples().shape == (0,)


@pytest.mark.parametrize(
    ("shape", "channel_last", "message"),
    [
        ((3, 5, DIM), False, r"^x must have size 4 along axis 1; got shape \(3, 5, 4\)$"),
        ((3, DIM, 5), True, r"^x must have size 4 along axis -1; got shape \(3, 4, 5\)$"),
        ((DIM,), False, r"^x must have size 4 along axis 1; got shape \(4,\)$"),
        ((DIM,), True, r"^x must have size 4 along axis -1; got shape \(4,\)$"),
    ],
)
def test_another_size_is_refused(shape: tuple[int, ...], channel_last: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_rows(torch.zeros(shape), DIM, channel_last)


@each_layout
@pytest.mark.parametrize("shape", [(3, 4), (5, 3), (15,), (3, 5, 1), (3, 1, 5)])
def test_a_mask_of_another_shape_is_refused(channel_last: bool, shape: tuple[int, ...]) -> None:
    _, x, _ = make((5,), channel_last, masked=False)
    with pytest.raises(ValueError, match=r"^mask must have shape \(3, 5\); got \("):
        to_rows(x, DIM, channel_last, torch.ones(shape))


@pytest.mark.parametrize(
    ("positions", "lengths", "shown"),
    [
        ((5,), (4,), r"\(4,\) for positions \(3, 5\)"),
        ((5,), (3, 1), r"\(3, 1\) for positions \(3, 5\)"),
        ((5,), (), r"\(\) for positions \(3, 5\)"),
        ((5, 4), (3,), r"\(3,\) for positions \(3, 5, 4\)"),
        ((), (3,), r"\(3,\) for positions \(3,\)"),
    ],
)
def test_lengths_of_another_shape_are_refused(positions: tuple[int, ...], lengths: tuple[int, ...], shown: str) -> None:
    message = rf"^lengths must be one an example, of x with one position axis; got shape {shown}$"
    with pytest.raises(ValueError, match=message):
        to_rows(torch.zeros(3, DIM, *positions), DIM, False, lengths=torch.ones(lengths, dtype=torch.int64))


def test_lengths_beside_a_mask_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^mask and lengths must not both be given; they say the same$"):
        to_rows(torch.zeros(3, DIM, 5), DIM, False, torch.ones(3, 5), torch.tensor([5, 5, 5]))
