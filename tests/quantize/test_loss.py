import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.quantize import Diversity, Gradient, Orthogonal, VectorQuantize
from codec.quantize import distance as module
from codec.quantize.distance import DISTANCES, Distance, cosine, euclidean
from codec.quantize.loss import COMMITMENTS, cross_entropy, mean_square

EUCLIDEAN, COSINE = DISTANCES["euclidean"], DISTANCES["cosine"]

each_distance = pytest.mark.parametrize("distance", [EUCLIDEAN, COSINE], ids=["euclidean", "cosine"])

EVERY_LOSS = {**COMMITMENTS, "orthogonal": Orthogonal(), "diversity": Diversity()}
each_loss = pytest.mark.parametrize("loss", EVERY_LOSS.values(), ids=EVERY_LOSS)


def case(rows: int = 50, size: int = 9, dim: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, code vectors and codes, with gradient, in float64."""
    options = {"dtype": torch.float64, "requires_grad": True}
    return torch.randn(rows, dim, **options), torch.randn(size, dim, **options), torch.randint(size, (rows,))


# Commitment.


def test_mean_square_by_hand() -> None:
    rows, vectors = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert mean_square(rows, vectors, torch.tensor([0, 1]), EUCLIDEAN) == (4 + 9 + 16) / 4


def test_cross_entropy_by_hand() -> None:
    # Squared distances 0 and 4, and 1 and 1.
    rows, vectors = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    expected = (math.log(1 + math.exp(-4)) + math.log(2)) / 2
    assert cross_entropy(rows, vectors, torch.tensor([0, 1]), EUCLIDEAN).item() == pytest.approx(expected)


@each_distance
def test_cross_entropy_is_that_of_the_negative_distances(distance: Distance) -> None:
    rows, vectors, codes = case()
    loss = cross_entropy(rows, vectors, codes, distance)
    expected = F.cross_entropy(-distance.measure(rows, vectors), codes)
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, (rows, vectors))
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (rows, vectors)))


def test_cross_entropy_also_moves_a_row_from_codes_it_did_not_choose() -> None:
    row, vectors = torch.tensor([[0.0, 1.0]], requires_grad=True), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    codes = torch.tensor([0])
    assert torch.autograd.grad(mean_square(row, vectors, codes, EUCLIDEAN), row)[0].tolist() == [[0.0, 0.0]]
    (gradient,) = torch.autograd.grad(cross_entropy(row, vectors, codes, EUCLIDEAN), row)
    assert gradient[0, 0] > 0.1  # a step down leads to the left, away from the second code vector


# Orthogonal.


def slow_orthogonal(vectors: Tensor) -> float:
    """Eq. 2 of arXiv 2112.00384, pair by pair."""
    total = 0.0
    for i, first in enumerate(vectors):
        for j, second in enumerate(vectors):
            total += (F.cosine_similarity(first, second, dim=0).item() - float(i == j)) ** 2
    return total / len(vectors) ** 2


def orthogonal(vectors: Tensor, codes: list[int], **options) -> Tensor:
    rows = torch.full((len(codes), vectors.shape[1]), float("nan"))  # nobody looks at them
    return Orthogonal(**options)(rows, vectors, torch.tensor(codes, dtype=torch.int64), EUCLIDEAN)


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], 0.0),
        ([[5.0, 0.0], [0.0, -0.1]], 0.0),  # lengths do not count
        ([[1.0, 0.0], [1.0, 0.0]], 0.5),  # two of four entries are 1
        ([[1.0, 0.0], [-2.0, 0.0]], 0.5),  # nor do signs
        ([[1.0, 0.0], [3.0, 3.0]], 0.25),
        ([[1.0, 0.0]], 0.0),
    ],
)
def test_orthogonal_by_hand(vectors: list[list[float]], expected: float) -> None:
    assert orthogonal(torch.tensor(vectors), list(range(len(vectors)))).item() == pytest.approx(expected, abs=1e-6)


def test_orthogonal_is_the_formula_of_the_paper_over_the_codes_in_use() -> None:
    vectors = torch.randn(9, 4)
    assert orthogonal(vectors, [7, 2, 2, 5, 2]).item() == pytest.approx(slow_orthogonal(vectors[[2, 5, 7]]), abs=1e-6)


def test_orthogonal_moves_the_code_vectors_in_use_and_nothing_else() -> None:
    rows, vectors, _ = case(rows=5)
    (gradient,) = torch.autograd.grad(
        Orthogonal()(rows, vectors, torch.tensor([7, 2, 2, 5, 2]), EUCLIDEAN), vectors, retain_graph=True
    )
    assert gradient.any(1).nonzero().flatten().tolist() == [2, 5, 7]
    # Down the gradient, they part.
    assert slow_orthogonal((vectors - gradient)[[2, 5, 7]]) < slow_orthogonal(vectors[[2, 5, 7]])


def test_orthogonal_takes_at_most_so_many_codes() -> None:
    vectors = torch.randn(9, 4, requires_grad=True)
    taken = []
    for _ in range(20):
        loss = orthogonal(vectors, list(range(6)), max_codes=3)
        chosen = torch.autograd.grad(loss, vectors)[0].any(1).nonzero().flatten().tolist()
        assert loss.item() == pytest.approx(slow_orthogonal(vectors.detach()[chosen]), abs=1e-6)
        taken.append(chosen)
    assert {len(chosen) for chosen in taken} == {3}
    assert set().union(*taken) == set(range(6))
    assert orthogonal(vectors, list(range(6)), max_codes=6).item() == pytest.approx(
        slow_orthogonal(vectors.detach()[:6]), abs=1e-6
    )


@pytest.mark.parametrize("vectors", [[[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_code_vectors_without_a_direction_have_a_finite_gradient(vectors: list[list[float]]) -> None:
    leaf = torch.tensor(vectors, requires_grad=True)
    orthogonal(leaf, [0, 1]).backward()
    assert leaf.grad.isfinite().all()


# Diversity.


def slow_diversity(rows: Tensor, vectors: Tensor, measure: Callable, temperature: float) -> Tensor:
    """All rows at once, without a thought for memory or for probabilities of 0."""
    mean = (-measure(rows, vectors) / temperature).softmax(1).mean(0)
    entropy = -(mean * mean.log()).sum()
    return math.log(len(vectors)) - entropy


def test_diversity_is_0_where_all_codes_are_equally_likely() -> None:
    # By each row, and by all of them together.
    vectors = 10 * torch.eye(4)
    codes = torch.arange(4)
    assert Diversity()(torch.zeros(4, 4), vectors, codes, EUCLIDEAN).item() == pytest.approx(0, abs=1e-6)
    assert Diversity()(vectors, vectors, codes, EUCLIDEAN).item() == pytest.approx(0, abs=1e-6)


def test_diversity_is_the_logarithm_of_the_codebook_where_all_rows_sit_on_one_code() -> None:
    vectors, codes = 10 * torch.eye(4), torch.zeros(5, dtype=torch.int64)
    assert Diversity()(vectors[[0] * 5], vectors, codes, EUCLIDEAN).item() == pytest.approx(math.log(4))
    # Where the softmax is wide, they do not sit on it.
    assert Diversity(temperature=1e4)(vectors[[0] * 5], vectors, codes, EUCLIDEAN).item() < 0.01


def test_diversity_by_hand() -> None:
    # Squared distances 0 and 1, divided by a temperature of 1 / log 3: probabilities 3/4 and 1/4.
    loss = Diversity(1 / math.log(3))(torch.zeros(3, 1), torch.tensor([[0.0], [1.0]]), torch.zeros(3).long(), EUCLIDEAN)
    assert loss.item() == pytest.approx(math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25))


@pytest.mark.parametrize("measure", [euclidean, cosine])
@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("block", [1, 100, 10_000])
def test_diversity_and_its_gradient_are_those_of_the_whole(
    measure: Callable, temperature: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    rows, vectors, codes = case()
    loss = Diversity(temperature)(rows, vectors, codes, Distance(measure, EUCLIDEAN.rank))
    expected = slow_diversity(rows, vectors, measure, temperature)
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, (rows, vectors))
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (rows, vectors)))


def test_diversity_passes_a_numeric_gradient_check() -> None:
    rows, vectors, codes = case(rows=6, size=4, dim=3)
    assert torch.autograd.gradcheck(lambda *leaves: Diversity()(*leaves, codes, EUCLIDEAN), (rows, vectors))


def test_probabilities_that_underflow_to_0_have_a_finite_gradient() -> None:
    rows, vectors = torch.zeros(3, 2, requires_grad=True), torch.tensor([[0.0, 1.0], [1.0, 0.0], [1e3, 1e3]])
    vectors.requires_grad_()
    assert (-euclidean(rows, vectors)).softmax(1)[0, 2] == 0
    loss = Diversity()(rows, vectors, torch.zeros(3, dtype=torch.int64), EUCLIDEAN)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3 / 2))
    assert rows.grad.isfinite().all()
    assert vectors.grad.isfinite().all()


def test_diversity_draws_rows_from_one_code_to_another() -> None:
    vectors = torch.tensor([[0.0], [2.0]])
    rows = torch.zeros(4, 1, requires_grad=True)
    for _ in range(200):
        loss = Diversity()(rows + torch.linspace(0, 0.5, 4)[:, None], vectors, torch.zeros(4).long(), EUCLIDEAN)
        rows = (rows - torch.autograd.grad(loss, rows)[0]).detach().requires_grad_()
    assert loss < 1e-3


# All of them.


@each_loss
def test_no_rows_lose_nothing_and_still_have_a_gradient(loss: Callable) -> None:
    rows, vectors, codes = case(rows=0)
    value = loss(rows, vectors, codes, EUCLIDEAN)
    assert value == 0
    assert value.shape == ()
    # A rank whose batch is padding must take part in the backward pass, as the others do.
    gradients = torch.autograd.grad(value, (rows, vectors), allow_unused=True)
    assert any(gradient is not None for gradient in gradients)
    assert not any(gradient.any() for gradient in gradients if gradient is not None)


@each_loss
@each_distance
@pytest.mark.parametrize("block", [1, 9, 100, 450])
def test_blocks_give_the_value_and_gradient_of_the_whole(
    loss: Callable, distance: Distance, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, vectors, codes = case()

    def value_and_gradients() -> tuple[Tensor, ...]:
        value = loss(rows, vectors, codes, distance)
        return value, *torch.autograd.grad(value, (rows, vectors), materialize_grads=True)

    expected = value_and_gradients()
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    torch.testing.assert_close(value_and_gradients(), expected)


@pytest.mark.parametrize("name", ["cross_entropy", "diversity"])
def test_memory_stays_at_one_block_in_the_backward_pass_too(
    name: str, largest_tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 2048)
    rows, vectors, codes = case(rows=512, size=64)
    kept = []
    with largest_tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda kept: kept):
            loss = EVERY_LOSS[name](rows, vectors, codes, EUCLIDEAN)
        loss.backward()
    assert largest_tensor.elements == 512 * 4  # the rows themselves; a block holds as many distances
    # The rows and codes, and little else, wait for the backward pass: no distances, 512 * 64.
    assert sum(tensor.numel() for tensor in kept) < 2 * 512 * 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Orthogonal(max_codes=1), r"^max_codes must be at least 2; got 1$"),
        (lambda: Diversity(temperature=0.0), r"^temperature must be positive; got 0\.0$"),
        (lambda: Diversity(temperature=float("nan")), r"^temperature must be positive; got nan$"),
    ],
)
def test_a_wrong_setting_is_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# In a quantizer.


@pytest.mark.parametrize("commitment", COMMITMENTS)
def test_a_quantizer_returns_the_losses_of_its_latents_and_code_vectors(commitment: str) -> None:
    options = {"commitment": commitment, "regularizers": [Orthogonal(), Diversity(2.0)], "update": Gradient()}
    quantizer = VectorQuantize(4, 8, **options)
    quantizer(torch.randn(2, 4, 20))
    x = torch.randn(2, 4, 20)
    result = quantizer.eval()(x)
    given = (x.movedim(1, -1).flatten(0, 1), quantizer.codebook.vectors, result.codes.flatten(), EUCLIDEAN)
    torch.testing.assert_close(
        result.losses,
        {
            "commitment": COMMITMENTS[commitment](*given),
            "codebook": mean_square(*given),
            "orthogonal": Orthogonal()(*given),
            "diversity": Diversity(2.0)(*given),
        },
    )


def test_the_cross_entropy_commitment_leaves_the_code_vectors_alone() -> None:
    quantizer = VectorQuantize(4, 8, commitment="cross_entropy", update=Gradient())
    x = torch.randn(2, 4, 20, requires_grad=True)
    quantizer(x).losses["commitment"].backward()
    assert quantizer.codebook.vectors.grad is None
    assert x.grad.any()


def test_orthogonal_is_refused_where_no_loss_moves_the_code_vectors() -> None:
    message = (
        r"^orthogonal must go with code vectors that learn by gradient, update=Gradient\(\); got EMA, "
        r"which no loss can move$"
    )
    with pytest.raises(ValueError, match=message):
        VectorQuantize(4, 8, regularizers=[Orthogonal()])
