import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from codec.quantize.distance import DISTANCES, Distance, nearest
from codec.quantize.estimator import ESTIMATORS, Estimate

EUCLIDEAN = DISTANCES["euclidean"]

each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
each_distance = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
tempered = pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if ESTIMATORS[name].tempered])
# A code vector forward; that of the nearest code; without a gradient to code vectors.
hard_estimator = pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "gumbel_softmax"])
nearest_estimator = pytest.mark.parametrize("estimator", ["straight_through", "rotation"])
carrying_estimator = pytest.mark.parametrize("estimator", ["straight_through", "rotation", "stochastic"])


def run(
    estimator: str, rows: Tensor, vectors: Tensor, distance: Distance = EUCLIDEAN, temperature: float = 1.0
) -> Estimate:
    """Of the random numbers after seed 1."""
    torch.manual_seed(1)
    return ESTIMATORS[estimator].estimate(rows, vectors, distance, torch.tensor(temperature))


def gumbel_noise(rows: int, size: int) -> Tensor:
    """What `run` adds to logits of float64."""
    torch.manual_seed(1)
    return -torch.empty(rows, size, dtype=torch.float64).exponential_().log()


def doubles() -> tuple[Tensor, Tensor]:
    """10 rows and 6 code vectors of 5 numbers, of which the gradient may be asked."""
    rows, vectors = torch.randn(10, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    return rows.requires_grad_(), vectors.requires_grad_()


def gradients(value: Tensor, upstream: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs, upstream, retain_graph=True)


def one_hot(codes: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(codes, size).double()


# What all have in common.


@hard_estimator
@each_distance
def test_the_forward_value_is_a_code_vector_to_the_last_bit(estimator: str, distance: Distance) -> None:
    rows, vectors = 100 * torch.randn(50, 6), torch.randn(9, 6)
    codes, quantized = run(estimator, rows.requires_grad_(), vectors.requires_grad_(), distance)
    assert torch.equal(quantized, vectors[codes])


@nearest_estimator
@each_distance
def test_its_code_is_the_nearest(estimator: str, distance: Distance) -> None:
    rows, vectors = torch.randn(50, 6), torch.randn(9, 6)
    assert torch.equal(run(estimator, rows, vectors, distance).codes, nearest(rows, vectors, distance))


@each_estimator
@each_distance
@pytest.mark.parametrize("count", [0, 1, 5])
def test_rows_keep_their_axes(estimator: str, distance: Distance, count: int) -> None:
    rows = torch.randn(count, 4, requires_grad=True)
    codes, quantized = run(estimator, rows, torch.randn(3, 4), distance)
    assert (codes.shape, codes.dtype) == ((count,), torch.int64)
    assert quantized.shape == (count, 4)
    quantized.sum().backward()
    assert rows.grad.shape == (count, 4)


@each_estimator
def test_only_a_tempered_estimator_uses_the_temperature(estimator: str) -> None:
    rows, vectors = doubles()
    cold, hot = (run(estimator, rows, vectors, temperature=temperature) for temperature in (0.1, 10.0))
    parts = [(each.quantized, *gradients(each.quantized, torch.ones(10, 5), rows)) for each in (cold, hot)]
    same = [torch.equal(*pair) for pair in zip(*parts, strict=True)]
    assert all(same) != ESTIMATORS[estimator].tempered


@carrying_estimator
def test_code_vectors_get_no_gradient_from_a_carried_one(estimator: str) -> None:
    assert not run(estimator, torch.randn(5, 4), torch.randn(3, 4, requires_grad=True)).quantized.requires_grad


@pytest.mark.parametrize("estimator", ["straight_through", "stochastic"])
def test_straight_through_passes_the_gradient_on(estimator: str) -> None:
    rows = torch.randn(5, 4, requires_grad=True)
    upstream = torch.randn(5, 4)
    run(estimator, rows, torch.randn(3, 4)).quantized.backward(upstream)
    assert torch.equal(rows.grad, upstream)


@pytest.mark.parametrize("estimator", ["gumbel_softmax_hard", "reinmax"])
def test_code_vectors_get_the_gradient_of_a_lookup_beside_that_of_the_distances(estimator: str) -> None:
    rows, vectors = doubles()
    of_rows_alone = replace(EUCLIDEAN, measure=lambda x, c: EUCLIDEAN.measure(x, c.detach()))
    codes, quantized = run(estimator, rows, vectors, of_rows_alone)
    upstream = torch.randn(10, 5, dtype=torch.float64)
    torch.testing.assert_close(gradients(quantized, upstream, vectors)[0], one_hot(codes, 6).T @ upstream)


# The rotation trick.


def explicit_rotation(x: Tensor, q: Tensor) -> Tensor:
    """|q| / |x| (I - 2 r r^T + 2 q_hat e_hat^T), the matrix of arXiv 2410.06424, section 4.2."""
    e_hat, q_hat = x / x.norm(), q / q.norm()
    r = (e_hat + q_hat) / (e_hat + q_hat).norm()
    eye = torch.eye(x.shape[0], dtype=x.dtype)
    return q.norm() / x.norm() * (eye - 2 * torch.outer(r, r) + 2 * torch.outer(q_hat, e_hat))


@each_distance
@pytest.mark.parametrize("count", [1, 10])
def test_rotation_is_the_matrix_of_the_paper(distance: Distance, count: int) -> None:
    rows, vectors = doubles()
    rows = rows[:count]
    codes, quantized = run("rotation", rows, vectors, distance)
    matrices = torch.stack([explicit_rotation(*pair) for pair in zip(rows, vectors[codes], strict=True)])
    torch.testing.assert_close(torch.einsum("nij,nj->ni", matrices, rows), quantized)
    upstream = torch.randn(count, 5, dtype=torch.float64)
    expected = torch.einsum("nij,ni->nj", matrices, upstream)  # the transpose: its Jacobian is the matrix
    torch.testing.assert_close(gradients(quantized, upstream, rows)[0], expected)


def test_rotation_keeps_the_angle_of_the_gradient() -> None:
    rows, vectors = doubles()
    upstream = torch.randn(10, 5, dtype=torch.float64)
    quantized = run("rotation", rows, vectors).quantized
    (gradient,) = gradients(quantized, upstream, rows)
    torch.testing.assert_close(torch.cosine_similarity(gradient, rows), torch.cosine_similarity(upstream, quantized))
    scale = quantized.norm(dim=1) / rows.norm(dim=1)
    torch.testing.assert_close(gradient.norm(dim=1), scale * upstream.norm(dim=1))


EDGES = {
    "zero row": ([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]),
    "zero code vector": ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
    "both zero": ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    "tiny row": ([1e-30, -1e-30, 0.0], [1.0, 2.0, 3.0]),
    "tiny code vector": ([1.0, 2.0, 3.0], [1e-30, -1e-30, 0.0]),
    "smallest row that has a direction": ([2e-6, 0.0, 0.0], [1.0, 2.0, 3.0]),
    "equal": ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
    "opposite": ([1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]),
    "opposite along an axis": ([2.0, 0.0, 0.0], [-1.0, 0.0, 0.0]),
    "nearly opposite": ([1.0, 2.0, 3.0], [-1.0, -2.0, -3.000001]),
    "large": ([1e15, 0.0, 0.0], [0.0, 1e15, 0.0]),
}


@each_estimator
@each_distance
@pytest.mark.parametrize(("row", "vector"), EDGES.values(), ids=EDGES)
def test_edges_give_the_code_vector_and_finite_gradients(
    estimator: str, distance: Distance, row: list[float], vector: list[float]
) -> None:
    rows, vectors = torch.tensor([row], requires_grad=True), torch.tensor([vector], requires_grad=True)
    quantized = run(estimator, rows, vectors, distance).quantized
    assert torch.equal(quantized, vectors)
    quantized.sum().backward()
    for gradient in (rows.grad, vectors.grad):
        assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("row", [[0.0, 0.0], [1e-30, 0.0], [0.9e-6, 0.0]])
@pytest.mark.parametrize("vector", [[3.0, 4.0], [0.0, 0.0]])
def test_rows_without_a_direction_are_passed_straight_through(row: list[float], vector: list[float]) -> None:
    rows, upstream = torch.tensor([row], requires_grad=True), torch.randn(1, 2)
    run("rotation", rows, torch.tensor([vector])).quantized.backward(upstream)
    assert torch.equal(rows.grad, upstream)


def test_the_gradient_of_opposite_vectors_is_turned_around() -> None:
    # Half a turn in the plane of both; here there is but one such plane's axis, and the rest stays as it is.
    rows = torch.tensor([[2.0, 0.0, 0.0]], requires_grad=True)
    run("rotation", rows, torch.tensor([[-2.0, 0.0, 0.0]])).quantized.backward(torch.tensor([[1.0, 1.0, 1.0]]))
    assert rows.grad.tolist() == [[-1.0, 1.0, 1.0]]


# Gumbel-softmax.


def slow_weights(rows: Tensor, vectors: Tensor, distance: Distance, temperature: float) -> Tensor:
    """The weights of arXiv 1611.01144, eq. 2, one row and one code vector at a time."""
    weights = []
    for row, noise in zip(rows, gumbel_noise(len(rows), len(vectors)), strict=True):
        distances = torch.cat([distance.measure(row[None], vector[None])[0] for vector in vectors])
        powers = ((noise - distances) / temperature).exp()
        weights.append(powers / powers.sum())
    return torch.stack(weights)


@each_distance
@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("estimator", ["gumbel_softmax", "gumbel_softmax_hard"])
def test_gumbel_softmax_is_that_of_the_paper(estimator: str, distance: Distance, temperature: float) -> None:
    rows, vectors = doubles()
    codes, quantized = run(estimator, rows, vectors, distance, temperature)
    weights = slow_weights(rows, vectors, distance, temperature)
    assert torch.equal(codes, weights.argmax(1))
    if estimator == "gumbel_softmax_hard":
        weights = one_hot(codes, 6) + weights - weights.detach()
    upstream = torch.randn(10, 5, dtype=torch.float64)
    # The temperature is in float32.
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
    close(quantized, weights @ vectors)
    close(gradients(quantized, upstream, rows, vectors), gradients(weights @ vectors, upstream, rows, vectors))


def test_a_cold_gumbel_softmax_is_the_code_vector() -> None:
    rows, vectors = torch.randn(50, 5), torch.randn(6, 5)
    codes, quantized = run("gumbel_softmax", rows, vectors, temperature=1e-5)
    torch.testing.assert_close(quantized, vectors[codes], atol=1e-3, rtol=0)


def test_a_hot_gumbel_softmax_is_the_mean_of_the_code_vectors() -> None:
    vectors = torch.randn(6, 5)
    quantized = run("gumbel_softmax", torch.randn(50, 5), vectors, temperature=1e6).quantized
    torch.testing.assert_close(quantized, vectors.mean(0).expand(50, 5), atol=1e-3, rtol=0)


# Codes that are drawn.


def frequencies(estimator: str, temperature: float) -> tuple[Tensor, Tensor]:
    """How often each of four codes was drawn for one row, and how far it is."""
    row, vectors = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 0.0], [0.0, 1.0], [1.2, 0.0], [0.0, 3.0]])
    codes = run(estimator, row.expand(20_000, 2), vectors, temperature=temperature).codes
    return torch.bincount(codes, minlength=4) / 20_000, torch.tensor([0.25, 1.0, 1.44, 9.0])


@pytest.mark.parametrize("estimator", ["gumbel_softmax", "gumbel_softmax_hard", "reinmax"])
@pytest.mark.parametrize("temperature", [1e-4, 0.5, 1.0, 1e4])
def test_codes_are_drawn_by_distance_at_any_temperature(estimator: str, temperature: float) -> None:
    drawn, distances = frequencies(estimator, temperature)
    torch.testing.assert_close(drawn, torch.softmax(-distances, dim=0), atol=0.015, rtol=0)


@pytest.mark.parametrize("temperature", [1e-4, 0.2, 1.0, 5.0, 1e4])
def test_stochastic_codes_are_drawn_by_distance_over_temperature(temperature: float) -> None:
    drawn, distances = frequencies("stochastic", temperature)
    torch.testing.assert_close(drawn, torch.softmax(-distances / temperature, dim=0), atol=0.015, rtol=0)


@each_distance
def test_a_cold_stochastic_code_is_the_nearest(distance: Distance) -> None:
    rows, vectors = torch.randn(50, 5), torch.randn(6, 5)
    codes = run("stochastic", rows, vectors, distance, temperature=1e-6).codes
    assert torch.equal(codes, nearest(rows, vectors, distance))


# ReinMax.


def paper_reinmax(logits: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """The drawn one-hot with the gradient of arXiv 2304.08612, algorithm 2, line by line."""
    drawn = one_hot(codes, logits.shape[1])
    pi_0 = logits.softmax(1)
    pi_1 = (drawn + (logits / temperature).softmax(1)) / 2
    pi_1 = ((pi_1.log() - logits).detach() + logits).softmax(1)
    pi_2 = 2 * pi_1 - pi_0 / 2
    return pi_2 - pi_2.detach() + drawn


@each_distance
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_reinmax_is_the_algorithm_of_the_paper(distance: Distance, temperature: float) -> None:
    rows, vectors = doubles()
    codes, quantized = run("reinmax", rows, vectors, distance, temperature)
    expected = paper_reinmax(-distance.measure(rows, vectors), codes, temperature) @ vectors
    upstream = torch.randn(10, 5, dtype=torch.float64)
    torch.testing.assert_close(quantized, expected)
    torch.testing.assert_close(
        gradients(quantized, upstream, rows, vectors), gradients(expected, upstream, rows, vectors)
    )


X, LEFT, RIGHT = 0.3, -0.5, 0.8  # a number between two codes


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def reinmax_gradients(derivative: Callable[[Tensor], Tensor], temperature: float) -> dict[int, float]:
    """At `X`, of a function of the quantized value, for each of the two codes that may be drawn."""
    rows = torch.full((50, 1), X, dtype=torch.float64, requires_grad=True)
    vectors = torch.tensor([[LEFT], [RIGHT]], dtype=torch.float64)
    codes, quantized = run("reinmax", rows, vectors, temperature=temperature)
    (gradient,) = gradients(quantized, derivative(quantized.detach()), rows)
    found = {code: gradient[codes == code].unique() for code in (0, 1)}
    assert all(len(values) == 1 for values in found.values())
    return {code: values.item() for code, values in found.items()}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_reinmax_of_two_codes_by_hand(temperature: float) -> None:
    # A softmax p of two logits has the Jacobian p (1 - p) [[1, -1], [-1, 1]]; the logits are -(x - c)^2.
    difference = (X - RIGHT) ** 2 - (X - LEFT) ** 2
    p, smooth = sigmoid(difference), sigmoid(difference / temperature)
    for code, gradient in reinmax_gradients(torch.ones_like, temperature).items():
        middle = ((code == 0) + smooth) / 2
        slope = 2 * middle * (1 - middle) - p * (1 - p) / 2
        assert gradient == pytest.approx(slope * 2 * (LEFT - RIGHT) ** 2)


def test_the_mean_reinmax_gradient_of_a_square_is_exact() -> None:
    # What second order means: the straight-through gradient is wrong for all functions but linear ones.
    p = sigmoid((X - RIGHT) ** 2 - (X - LEFT) ** 2)
    found = reinmax_gradients(lambda q: 2 * (q - 5), temperature=1.0)
    # Of p(x) (LEFT - 5)^2 + (1 - p(x)) (RIGHT - 5)^2
    exact = p * (1 - p) * 2 * (LEFT - RIGHT) * ((LEFT - 5) ** 2 - (RIGHT - 5) ** 2)
    assert p * found[0] + (1 - p) * found[1] == pytest.approx(exact)


@tempered
@each_distance
@pytest.mark.parametrize("temperature", [1e-6, 1.0, 1e6])
def test_gradients_are_finite_at_any_temperature(estimator: str, distance: Distance, temperature: float) -> None:
    rows = torch.cat([torch.randn(5, 4), torch.zeros(1, 4), 1e4 * torch.randn(1, 4)]).requires_grad_()
    vectors = torch.randn(3, 4, requires_grad=True)
    quantized = run(estimator, rows, vectors, distance, temperature).quantized
    quantized.sum().backward()
    assert quantized.isfinite().all()
    assert rows.grad.isfinite().all()
    if estimator != "stochastic":
        assert vectors.grad.isfinite().all()
        assert vectors.grad.abs().sum() > 0
