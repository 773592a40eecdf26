import pytest
import torch
from torch import Tensor

from codec.quantize import distance as module
from codec.quantize.distance import DISTANCES, cosine, euclidean, nearest

each_distance = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)


def slow_nearest(rows: Tensor, vectors: Tensor, distance) -> list[int]:
    """One row and one code vector at a time."""
    codes = []
    for row in rows:
        distances = [distance(row[None], vector[None]).item() for vector in vectors]
        codes.append(distances.index(min(distances)))
    return codes


def test_euclidean_is_the_sum_of_squared_differences() -> None:
    rows, vectors = torch.randn(20, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    expected = torch.stack([torch.stack([(row - vector).square().sum() for vector in vectors]) for row in rows])
    torch.testing.assert_close(euclidean(rows, vectors), expected)


def test_cosine_is_one_minus_the_cosine_of_the_angle() -> None:
    rows = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    vectors = torch.tensor([[5.0, 0.0], [0.0, 0.1], [-3.0, 0.0]])
    half = 0.5**0.5
    torch.testing.assert_close(cosine(rows, vectors), torch.tensor([[0.0, 1.0, 2.0], [1 - half, 1 - half, 1 + half]]))


def test_cosine_ignores_sizes() -> None:
    rows, vectors = torch.randn(20, 5), torch.randn(7, 5)
    torch.testing.assert_close(cosine(3 * rows, 0.01 * vectors), cosine(rows, vectors))


def test_a_zero_row_is_as_far_from_every_direction() -> None:
    assert cosine(torch.zeros(1, 3), torch.randn(4, 3)).tolist() == [[1.0] * 4]


@each_distance
def test_nearest_is_the_smallest_distance(distance) -> None:
    rows, vectors = torch.randn(50, 6), torch.randn(9, 6)
    assert nearest(rows, vectors, distance).tolist() == slow_nearest(rows, vectors, distance)


@each_distance
def test_a_code_vector_is_nearest_to_itself(distance) -> None:
    vectors = torch.randn(32, 6)
    assert nearest(vectors, vectors, distance).tolist() == list(range(32))


@each_distance
def test_ties_go_to_the_lowest_code(distance) -> None:
    # Of numbers without rounding; equal code vectors elsewhere may differ in the last bit of their products.
    vectors = torch.eye(4)[[2, 0, 1, 0, 2]]
    assert nearest(vectors, vectors, distance).tolist() == [0, 1, 2, 1, 0]


@each_distance
@pytest.mark.parametrize("block", [1, 9, 20, 450, 1000])
def test_blocks_give_the_codes_of_the_whole(distance, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, vectors = torch.randn(50, 6), torch.randn(9, 6)
    expected = nearest(rows, vectors, distance)
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    assert torch.equal(nearest(rows, vectors, distance), expected)


@each_distance
def test_memory_stays_at_one_block(distance, largest_tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 2048)
    rows, vectors = torch.randn(512, 4), torch.randn(64, 4)
    with largest_tensor:
        nearest(rows, vectors, distance)
    assert largest_tensor.elements == 2048


@each_distance
def test_no_rows_have_no_codes(distance) -> None:
    codes = nearest(torch.zeros(0, 4), torch.randn(3, 4), distance)
    assert (codes.shape, codes.dtype) == ((0,), torch.int64)


def test_codes_in_bfloat16_would_be_wrong() -> None:
    # Why the quantizer leaves autocast: the difference of two large squares has no digits left.
    rows, vectors = 3 + torch.randn(500, 32), 3 + torch.randn(256, 32)
    codes = nearest(rows, vectors, euclidean)
    rough = nearest(rows.bfloat16(), vectors.bfloat16(), euclidean)
    assert (codes != rough).float().mean() > 0.05
