import pytest
import torch
from torch import Tensor

from codec.quantize.distance import DISTANCES, cosine, euclidean, nearest
from codec.quantize.estimator import ESTIMATORS, gumbel_softmax, rotation, straight_through

each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
hard_estimator = pytest.mark.parametrize("estimator", [straight_through, rotation])


def jacobian(function, rows: Tensor) -> Tensor:
    """Of every row's output with respect to that row, [n, dim, dim]."""
    whole = torch.autograd.functional.jacobian(function, rows)
    return torch.stack([whole[i, :, i] for i in range(rows.shape[0])])


def explicit_rotation(x: Tensor, q: Tensor) -> Tensor:
    """|q| / |x| (I - 2 r r^T + 2 q_hat e_hat^T), the matrix of arXiv 2410.06424, section 4.2."""
    e_hat, q_hat = x / x.norm(), q / q.norm()
    r = (e_hat + q_hat) / (e_hat + q_hat).norm()
    eye = torch.eye(x.shape[0], dtype=x.dtype)
    return q.norm() / x.norm() * (eye - 2 * torch.outer(r, r) + 2 * torch.outer(q_hat, e_hat))


@hard_estimator
@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_the_forward_value_is_the_nearest_code_vector_to_the_last_bit(estimator, distance) -> None:
    rows, vectors = 100 * torch.randn(50, 6), torch.randn(9, 6)
    codes, quantized = estimator(rows, vectors, distance, 1.0)
    assert torch.equal(codes, nearest(rows, vectors, distance))
    assert torch.equal(quantized, vectors[codes])


@each_estimator
@pytest.mark.parametrize("count", [0, 1, 5])
def test_rows_keep_their_axes(estimator, count: int) -> None:
    codes, quantized = estimator(torch.randn(count, 4), torch.randn(3, 4), euclidean, 1.0)
    assert (codes.shape, codes.dtype) == ((count,), torch.int64)
    assert quantized.shape == (count, 4)


@hard_estimator
def test_code_vectors_get_no_gradient_from_a_hard_choice(estimator) -> None:
    vectors = torch.randn(3, 4, requires_grad=True)
    _, quantized = estimator(torch.randn(5, 4), vectors, euclidean, 1.0)
    assert not quantized.requires_grad


def test_straight_through_passes_the_gradient_on() -> None:
    rows = torch.randn(5, 4, requires_grad=True)
    upstream = torch.randn(5, 4)
    straight_through(rows, torch.randn(3, 4), euclidean, 1.0).quantized.backward(upstream)
    assert torch.equal(rows.grad, upstream)


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_rotation_is_the_matrix_of_the_paper(distance) -> None:
    rows, vectors = torch.randn(10, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    codes, quantized = rotation(rows, vectors, distance, 1.0)
    matrices = torch.stack([explicit_rotation(*pair) for pair in zip(rows, vectors[codes], strict=True)])
    torch.testing.assert_close(torch.einsum("nij,nj->ni", matrices, rows), quantized)
    torch.testing.assert_close(jacobian(lambda x: rotation(x, vectors, distance, 1.0).quantized, rows), matrices)


def test_rotation_keeps_the_angle_of_the_gradient() -> None:
    rows = torch.randn(10, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(10, 5, dtype=torch.float64)
    _, quantized = rotation(rows, torch.randn(6, 5, dtype=torch.float64), euclidean, 1.0)
    quantized.backward(upstream)
    before = torch.cosine_similarity(upstream, quantized.detach())
    after = torch.cosine_similarity(rows.grad, rows.detach())
    torch.testing.assert_close(after, before)
    scale = quantized.detach().norm(dim=1) / rows.detach().norm(dim=1)
    torch.testing.assert_close(rows.grad.norm(dim=1), scale * upstream.norm(dim=1))


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


@hard_estimator
@pytest.mark.parametrize(("row", "vector"), EDGES.values(), ids=EDGES)
def test_edges_give_the_code_vector_and_a_finite_gradient(estimator, row: list[float], vector: list[float]) -> None:
    rows = torch.tensor([row], requires_grad=True)
    _, quantized = estimator(rows, torch.tensor([vector]), euclidean, 1.0)
    assert quantized.tolist() == torch.tensor([vector]).tolist()
    quantized.sum().backward()
    assert rows.grad.isfinite().all()


def test_rows_without_a_direction_are_passed_straight_through() -> None:
    rows = torch.tensor([[0.0, 0.0], [1e-30, 0.0]], requires_grad=True)
    upstream = torch.randn(2, 2)
    rotation(rows, torch.tensor([[3.0, 4.0]]), euclidean, 1.0).quantized.backward(upstream)
    assert torch.equal(rows.grad, upstream)


def test_the_gradient_of_opposite_vectors_is_turned_around() -> None:
    # Half a turn in the plane of both; here there is but one such plane's axis, and the rest stays as it is.
    rows = torch.tensor([[2.0, 0.0, 0.0]], requires_grad=True)
    rotation(rows, torch.tensor([[-2.0, 0.0, 0.0]]), euclidean, 1.0).quantized.backward(torch.tensor([[1.0, 1.0, 1.0]]))
    assert rows.grad.tolist() == [[-1.0, 1.0, 1.0]]


def test_a_gumbel_softmax_is_the_mixture_of_the_paper() -> None:
    rows, vectors, temperature = torch.randn(10, 5), torch.randn(6, 5), 0.7
    torch.manual_seed(1)
    codes, quantized = gumbel_softmax(rows, vectors, euclidean, temperature)
    torch.manual_seed(1)
    noise = -torch.empty(10, 6).exponential_().log()
    for i, row in enumerate(rows):
        logits = torch.stack([noise[i, k] - (row - vector).square().sum() for k, vector in enumerate(vectors)])
        weights = (logits / temperature).exp() / (logits / temperature).exp().sum()
        torch.testing.assert_close(quantized[i], sum(w * v for w, v in zip(weights, vectors, strict=True)))
        assert codes[i] == logits.argmax()


@pytest.mark.parametrize("temperature", [1e-4, 0.5, 1.0, 1e4])
def test_gumbel_codes_are_drawn_by_distance_at_any_temperature(temperature: float) -> None:
    row, vectors = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 0.0], [0.0, 1.0], [1.2, 0.0], [0.0, 3.0]])
    expected = torch.softmax(-euclidean(row, vectors)[0], dim=0)
    codes, _ = gumbel_softmax(row.expand(20_000, 2), vectors, euclidean, temperature)
    drawn = torch.bincount(codes, minlength=4) / 20_000
    torch.testing.assert_close(drawn, expected, atol=0.015, rtol=0)


def test_a_cold_gumbel_softmax_is_the_code_vector() -> None:
    rows, vectors = torch.randn(50, 5), torch.randn(6, 5)
    codes, quantized = gumbel_softmax(rows, vectors, euclidean, 1e-5)
    torch.testing.assert_close(quantized, vectors[codes], atol=1e-3, rtol=0)


def test_a_hot_gumbel_softmax_is_the_mean_of_the_code_vectors() -> None:
    vectors = torch.randn(6, 5)
    _, quantized = gumbel_softmax(torch.randn(50, 5), vectors, euclidean, 1e6)
    torch.testing.assert_close(quantized, vectors.mean(0).expand(50, 5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("temperature", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("distance", [euclidean, cosine])
def test_a_gumbel_softmax_has_finite_gradients_to_rows_and_code_vectors(distance, temperature: float) -> None:
    rows = torch.cat([torch.randn(5, 4), torch.zeros(1, 4), 1e4 * torch.randn(1, 4)]).requires_grad_()
    vectors = torch.randn(3, 4, requires_grad=True)
    gumbel_softmax(rows, vectors, distance, temperature).quantized.sum().backward()
    assert rows.grad.isfinite().all()
    assert vectors.grad.isfinite().all()
    assert vectors.grad.abs().sum() > 0
