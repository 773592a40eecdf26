import pytest
import torch
from torch import Tensor

from codec.quantize import VectorQuantize
from codec.quantize import distance as module
from codec.quantize.distance import (
    DISTANCES,
    GROUP,
    Distance,
    cosine,
    direction,
    euclidean,
    nearest,
    nearest_few,
    smallest,
)
from codec.quantize.update import UPDATES

each_distance = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
# Smaller, exactly as large and larger than what is searched in groups; multiples of a group and not.
each_size = pytest.mark.parametrize("size", [1, 9, GROUP, 4 * GROUP - 1, 4 * GROUP, 4 * GROUP + 1, 5 * GROUP, 333])


def slow_nearest(rows: Tensor, vectors: Tensor, distance: Distance) -> list[int]:
    """One row and one code vector at a time."""
    codes = []
    for row in rows:
        distances = [distance.measure(row[None], vector[None]).item() for vector in vectors]
        codes.append(distances.index(min(distances)))
    return codes


# What is measured.


def test_euclidean_is_the_sum_of_squared_differences() -> None:
    rows, vectors = torch.randn(20, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    expected = torch.stack([torch.stack([(row - vector).square().sum() for vector in vectors]) for row in rows])
    torch.testing.assert_close(euclidean(rows, vectors), expected)


def test_a_shift_of_all_vectors_changes_no_euclidean_distance() -> None:
    rows, vectors = torch.randn(20, 5), torch.randn(8, 5)
    torch.testing.assert_close(euclidean(1000 + rows, 1000 + vectors), euclidean(rows, vectors), atol=0.01, rtol=0)


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


def test_only_unit_cosine_asks_for_vectors_of_length_one() -> None:
    assert [name for name, distance in DISTANCES.items() if distance.unit] == ["unit_cosine"]


def test_on_the_unit_sphere_cosine_is_half_the_squared_euclidean_distance() -> None:
    rows, vectors = direction(torch.randn(20, 5)), direction(torch.randn(7, 5))
    torch.testing.assert_close(DISTANCES["unit_cosine"].measure(rows, vectors), euclidean(rows, vectors) / 2)


@pytest.mark.parametrize("update", UPDATES)
def test_a_quantizer_of_unit_vectors_ignores_lengths_and_returns_length_one(update: str) -> None:
    quantizer = VectorQuantize(4, 8, distance="unit_cosine", update=UPDATES[update](decay=0.5))
    for _ in range(3):
        result = quantizer(5 + torch.randn(2, 4, 20))
        torch.testing.assert_close(result.quantized.norm(dim=1), torch.ones(2, 20))
    x = torch.randn(2, 4, 20)
    quantized, codes, losses = quantizer.eval()(x)
    torch.testing.assert_close(quantized.norm(dim=1), torch.ones(2, 20))
    assert torch.equal(quantizer.encode(7 * x), codes)
    torch.testing.assert_close(quantizer(7 * x).losses, losses)


@each_distance
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_the_rank_orders_codes_as_the_measure_does(distance: Distance, offset: float) -> None:
    rows, vectors = (offset + torch.randn(count, 5, dtype=torch.float64) for count in (100, 40))
    weights, bias = distance.rank(vectors)
    scores = rows @ weights if bias is None else rows @ weights + bias
    assert torch.equal(scores.argsort(1), distance.measure(rows, vectors).argsort(1))


# Directions.


def test_a_direction_has_length_one_and_the_gradient_of_its_formula() -> None:
    vectors = torch.tensor([[3.0, 4.0]], requires_grad=True)
    result = direction(vectors)
    torch.testing.assert_close(result, torch.tensor([[0.6, 0.8]]))
    result.backward(torch.tensor([[1.0, 0.0]]))
    # (I - u u^T) / 5 of (1, 0)
    torch.testing.assert_close(vectors.grad, torch.tensor([[0.64 / 5, -0.48 / 5]]))


@pytest.mark.parametrize("length", [0.0, 1e-30, 0.9e-6])
def test_a_vector_without_length_has_no_direction_and_no_gradient(length: float) -> None:
    vectors = torch.tensor([[length, 0.0, 0.0], [0.0, 2.0, 0.0]], requires_grad=True)
    result = direction(vectors)
    assert result.tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    result.sum().backward()
    assert vectors.grad.tolist() == [[0.0, 0.0, 0.0], [0.5, 0.0, 0.5]]


@each_distance
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1e15])
def test_nothing_is_nan_at_any_size(distance: Distance, scale: float) -> None:
    rows, vectors = (scale * torch.randn(count, 4) for count in (10, 8))
    rows[0], vectors[0] = 0, 0
    rows.requires_grad_()
    vectors.requires_grad_()
    distances = distance.measure(rows, vectors)
    distances.sum().backward()
    for value in (distances, rows.grad, vectors.grad, *distance.rank(vectors)):
        assert value is None or value.isfinite().all()


# The nearest.


@each_distance
@each_size
def test_nearest_is_the_smallest_distance(distance: Distance, size: int) -> None:
    rows, vectors = torch.randn(10, 6, dtype=torch.float64), torch.randn(size, 6, dtype=torch.float64)
    assert nearest(rows, vectors, distance).tolist() == slow_nearest(rows, vectors, distance)


@each_distance
def test_a_code_vector_is_nearest_to_itself(distance: Distance) -> None:
    vectors = torch.randn(32, 6)
    assert nearest(vectors, vectors, distance).tolist() == list(range(32))


@each_distance
@pytest.mark.parametrize("size", [8, GROUP, 4 * GROUP, 4 * GROUP + 8, 5 * GROUP, 16 * GROUP])
@pytest.mark.parametrize("block", [1 << 21, 5000, 1])
def test_ties_go_to_the_lowest_code(distance: Distance, size: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    # Of numbers without rounding, with a mean of zero; equal code vectors elsewhere may differ in the last bit of
    # their products.
    axes = torch.cat([torch.eye(4), -torch.eye(4)])
    vectors = axes.repeat(size // 8, 1)[torch.randperm(size)]
    first = [(vectors == axis).all(1).nonzero()[0].item() for axis in axes]
    assert nearest(axes.repeat(5, 1), vectors, distance).tolist() == first * 5


@pytest.mark.parametrize("size", [8, GROUP, 4 * GROUP, 4 * GROUP + 1, 5 * GROUP, 16 * GROUP])
def test_the_search_in_groups_is_argmin(size: int) -> None:
    # Of few different values, so that each row has its smallest value many times, in one group and in several.
    scores = torch.randint(3, (200, size)).float()
    scores[0] = 1
    scores[1, -1] = scores[2, 0] = -1
    expected = [row.index(min(row)) for row in scores.tolist()]
    assert module._argmin(scores).squeeze(1).tolist() == expected


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("size", [5, 333, GROUP, 4 * GROUP - 1, 4 * GROUP, 4 * GROUP + 1, 10 * GROUP, 17 * GROUP])
def test_the_few_smallest_are_those_of_topk(size: int, count: int) -> None:
    scores = torch.randn(100, size)
    scores[0] = scores[0].sort().values  # all in one group
    assert torch.equal(smallest(scores, count), scores.topk(count, largest=False).indices)


@pytest.mark.parametrize("size", [5, 4 * GROUP, 17 * GROUP])
def test_of_equal_ones_each_counts_once(size: int) -> None:
    scores = torch.randint(3, (200, size)).float()
    scores[0] = 1
    places = smallest(scores, 5)
    assert torch.equal(scores.gather(1, places), scores.sort(1).values[:, :5])
    assert all(len(set(row)) == 5 for row in places.tolist())


@each_distance
@pytest.mark.parametrize("size", [9, 4 * GROUP, 333])
@pytest.mark.parametrize("block", [1, 20, 450, 7 * 333, 10**4])
def test_blocks_give_the_codes_of_the_whole(
    distance: Distance, size: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, vectors = torch.randn(50, 6, dtype=torch.float64), torch.randn(size, 6, dtype=torch.float64)
    expected = nearest(rows, vectors, distance)
    few = nearest_few(rows, vectors, distance, 3)
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    assert torch.equal(nearest(rows, vectors, distance), expected)
    assert torch.equal(nearest_few(rows, vectors, distance, 3), few)


@each_distance
@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_the_nearest_few_are_the_first_of_a_sort(distance: Distance, count: int) -> None:
    rows, vectors = torch.randn(50, 6, dtype=torch.float64), torch.randn(40, 6, dtype=torch.float64)
    expected = distance.measure(rows, vectors).argsort(1)[:, :count]
    assert torch.equal(nearest_few(rows, vectors, distance, count), expected)


@pytest.mark.parametrize("count", [1, 4])
def test_latents_far_from_the_origin_get_the_codes_of_float64(count: int) -> None:
    rows, vectors = 1000 + torch.randn(2000, 16), 1000 + torch.randn(256, 16)
    expected = torch.cdist(rows.double(), vectors.double(), compute_mode="donot_use_mm_for_euclid_dist")
    expected = expected.square().sort(1)
    # But for pairs that are so near to each other that the products of float32 cannot tell them apart.
    apart = (expected.values[:, 1 : count + 1] - expected.values[:, :count]).amin(1) > 0.02
    assert apart.float().mean() > 0.9
    codes = nearest_few(rows, vectors, DISTANCES["euclidean"], count)
    assert torch.equal(codes[apart], expected.indices[apart, :count])


def test_codes_in_bfloat16_would_be_wrong() -> None:
    # Why the quantizer leaves autocast: a product of vectors has too few digits to tell neighbours apart.
    rows, vectors = 3 + torch.randn(500, 32), 3 + torch.randn(256, 32)
    codes = nearest(rows, vectors, DISTANCES["euclidean"])
    rough = nearest(rows.bfloat16(), vectors.bfloat16(), DISTANCES["euclidean"])
    assert (codes != rough).float().mean() > 0.02


@each_distance
@pytest.mark.parametrize("count", [1, 3])
def test_memory_stays_at_one_block(
    distance: Distance, count: int, largest_tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 2048)
    rows, vectors = torch.randn(512, 4), torch.randn(64, 4)
    with largest_tensor:
        nearest_few(rows, vectors, distance, count)
    assert largest_tensor.elements == 2048


@each_distance
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [3, 4 * module.GROUP])
def test_no_rows_have_no_codes(distance: Distance, size: int, count: int) -> None:
    codes = nearest_few(torch.zeros(0, 4), torch.randn(size, 4), distance, count)
    assert (codes.shape, codes.dtype) == ((0, count), torch.int64)


def test_a_distance_of_ones_own_on_the_sphere_is_one_of_directions() -> None:
    rows, vectors = 5 * torch.randn(50, 4), direction(torch.randn(9, 4))
    distance = Distance(euclidean, DISTANCES["euclidean"].rank, unit=True)
    assert nearest(rows, vectors, distance).tolist() == slow_nearest(direction(rows), vectors, distance)


@each_distance
def test_codes_carry_no_gradient(distance: Distance) -> None:
    rows, vectors = torch.randn(5, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    assert not nearest(rows, vectors, distance).requires_grad


# Compiled.


@each_distance
@pytest.mark.parametrize("rows", [0, 1, 50])
@pytest.mark.parametrize("count", [1, 3])
def test_the_operator_is_one_that_compilers_may_take(
    distance: Distance, count: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 100)
    torch.library.opcheck(module._search_operator, (torch.randn(rows, 6), *distance.rank(torch.randn(9, 6)), count))


@each_distance
@pytest.mark.parametrize("count", [1, 3])
def test_compiled_is_eager(distance: Distance, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 2000)
    compiled = torch.compile(nearest_few, backend="aot_eager", fullgraph=True)
    for rows in (50, 7):
        rows, vectors = torch.randn(rows, 6), torch.randn(320, 6)
        assert torch.equal(compiled(rows, vectors, distance, count), nearest_few(rows, vectors, distance, count))


def test_a_script_that_allows_tensor_float_32_keeps_its_setting() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        nearest(torch.randn(5, 4), torch.randn(3, 4), DISTANCES["euclidean"])
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensor_float_32_changes_no_code() -> None:
    rows, vectors = torch.randn(4000, 64, device="cuda"), torch.randn(1024, 64, device="cuda")
    expected = nearest(rows, vectors, DISTANCES["euclidean"])
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert torch.equal(nearest(rows, vectors, DISTANCES["euclidean"]), expected)
    finally:
        torch.set_float32_matmul_precision(before)
