import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from codec.quantize import EMA, Affine, Frozen, Gradient, InPlace
from codec.quantize.codebook import Codebook, Observation, learn
from codec.quantize.distance import DISTANCES, direction, nearest
from codec.quantize.initialize import INITIALIZERS
from codec.quantize.update import Update

EACH_UPDATE = {
    "ema": EMA(decay=0.8, dead_ratio=0.5),
    "affine": EMA(decay=0.8, dead_ratio=0.5),
    "gradient": Gradient(decay=0.8, dead_ratio=0.5),
    "in_place": InPlace(partial(torch.optim.SGD, lr=0.5, momentum=0.5), decay=0.8, dead_ratio=0.5),
    "frozen": Frozen(decay=0.8),
}
AFFINE = Affine(batch_decay=0.8, codebook_decay=0.5)
each_update = pytest.mark.parametrize("update", EACH_UPDATE)
each_initializer = pytest.mark.parametrize("initializer", INITIALIZERS)

# To the last bit.
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


def make(
    update: Update,
    codebook_size: int = 8,
    dim: int = 4,
    initializer: str = "samples",
    distance: str = "euclidean",
    affine: Affine | None = None,
) -> Codebook:
    return Codebook(codebook_size, dim, DISTANCES[distance], INITIALIZERS[initializer], update, affine)


def make_each(update: str, **options) -> Codebook:
    """A codebook with one of `EACH_UPDATE`."""
    return make(EACH_UPDATE[update], affine=AFFINE if update == "affine" else None, **options)


def make_with(vectors: Tensor, update: Update, **options) -> Codebook:
    """A codebook of these code vectors."""
    codebook = make(update, *vectors.shape, **options)
    codebook.load_state_dict({**codebook.state_dict(), "vectors": vectors, "initialized": torch.tensor(True)})
    return codebook


def observe(codebook: Codebook, rows: Tensor) -> Observation:
    codebook.initialize(rows)
    return Observation(codebook, rows, nearest(rows, codebook.snapshot(), codebook.distance))


def step(codebook: Codebook, rows: Tensor) -> None:
    learn([observe(codebook, rows)])


def state(codebook: Codebook) -> dict[str, Tensor]:
    return copy.deepcopy(codebook.state_dict())


@each_update
def test_all_state_is_in_the_state_dict(update: str) -> None:
    codebook = make_each(update)
    more = {
        "affine": {f"affine.{of}_{moment}" for of in ("batch", "codebook") for moment in ("mean", "variance")},
        "in_place": {"optimizer.state.momentum_buffer"},
    }
    assert set(codebook.state_dict()) == {"vectors", "usage", "initialized", "steps"} | more.get(update, set())
    assert [name for name, _ in codebook.named_parameters()] == (["vectors"] if update == "gradient" else [])


@each_initializer
def test_the_first_batch_initializes_and_no_later_one(initializer: str) -> None:
    codebook = make(EMA(), initializer=initializer)
    assert not codebook.initialized
    codebook.initialize(torch.randn(20, 4))
    assert codebook.initialized
    before = state(codebook)
    codebook.initialize(torch.randn(20, 4))
    assert_same(state(codebook), before)


@each_update
def test_a_batch_without_rows_changes_nothing(update: str) -> None:
    codebook = make_each(update)
    before = state(codebook)
    step(codebook, torch.zeros(0, 4))
    assert_same(state(codebook), before)
    step(codebook, torch.randn(20, 4))
    before = state(codebook)
    step(codebook, torch.zeros(0, 4))
    assert_same(state(codebook), before)


def test_usage_is_the_moving_average_of_the_shares() -> None:
    codebook = make_with(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), Frozen(decay=0.5))
    step(codebook, torch.tensor([[0.1], [0.2], [0.9], [-5.0]]))
    # 0.5 * 1/4 + 0.5 * (3/4, 1/4, 0, 0)
    torch.testing.assert_close(codebook.usage, torch.tensor([0.5, 0.25, 0.125, 0.125]))
    step(codebook, torch.tensor([[3.0]]))
    torch.testing.assert_close(codebook.usage, torch.tensor([0.25, 0.125, 0.0625, 0.5625]))
    assert codebook.steps == 2


def test_one_step_of_ema_by_hand() -> None:
    # Decay 0.5 and hardly any smoothing. Each code starts with a use of 1/2; three of four rows choose the first.
    codebook = make_with(torch.tensor([[0.0], [10.0]]), EMA(decay=0.5, epsilon=1e-9, dead_ratio=0))
    step(codebook, torch.tensor([[1.0], [2.0], [3.0], [12.0]]))
    # (0.5 * 0 / 2 + 0.5 * 6 / 4) / (0.5 / 2 + 0.5 * 3 / 4) and (0.5 * 10 / 2 + 0.5 * 12 / 4) / (0.5 / 2 + 0.5 / 4)
    torch.testing.assert_close(codebook.vectors, torch.tensor([[1.2], [32 / 3]]))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("affine", [None, AFFINE])
def test_an_optimizer_in_place_follows_the_gradient_of_the_codebook_loss(
    momentum: float, distance: str, affine: Affine | None
) -> None:
    update = InPlace(partial(torch.optim.SGD, lr=2.0, momentum=momentum), dead_ratio=0)
    codebook = make(update, distance=distance, affine=affine)
    rows = torch.randn(60, 4)
    if codebook.distance.unit:
        rows = direction(rows)
    codebook.initialize(rows)
    velocity = torch.zeros(8, 4)
    for _ in range(3):
        vectors = codebook.vectors.clone().requires_grad_()
        placed = vectors if affine is None else codebook.affine(vectors)
        placed = direction(placed) if codebook.distance.unit else placed
        (rows - placed[nearest(rows, placed, codebook.distance)]).square().mean().backward()
        velocity = momentum * velocity + vectors.grad
        step(codebook, rows)
        torch.testing.assert_close(codebook.vectors, vectors.detach() - 2.0 * velocity)


@pytest.mark.parametrize("update", ["gradient", "frozen"])
def test_without_dead_codes_no_gradient_and_frozen_vector_moves(update: str) -> None:
    vectors = torch.randn(8, 4)
    codebook = make_with(vectors, EACH_UPDATE[update])
    step(codebook, vectors.repeat(3, 1))
    assert torch.equal(codebook.vectors, vectors)


def with_dead_codes(update: Update, dead: list[int]) -> Codebook:
    """A codebook of code vectors 0, 100, 200, ..., of which some have hardly been used."""
    codebook = make_with(100 * torch.arange(8.0)[:, None], update)
    codebook.usage[dead] = 1e-4
    return codebook


@pytest.mark.parametrize("update", ["ema", "gradient", "in_place"])
def test_a_dead_code_is_replaced_by_a_row_of_the_batch(update: str) -> None:
    codebook = with_dead_codes(EACH_UPDATE[update], dead=[2, 5])
    living = torch.tensor([0, 1, 3, 4, 6, 7])
    rows = 100 * living[:, None] + torch.tensor([[1.0]])
    step(codebook, rows)
    for code in (2, 5):
        assert (codebook.vectors[code] == rows).all(1).any()
        assert codebook.usage[code] == 1 / 8
    assert codebook.vectors[2] != codebook.vectors[5]
    torch.testing.assert_close(codebook.vectors[living], 100.0 * living[:, None], atol=1, rtol=0)


def test_a_replaced_code_forgets_its_momentum() -> None:
    codebook = with_dead_codes(EACH_UPDATE["in_place"], dead=[2])
    codebook.optimizer.state.momentum_buffer.fill_(7)
    step(codebook, torch.tensor([[0.0], [300.0]]))
    assert torch.equal(codebook.optimizer.state.momentum_buffer.flatten() == 0, torch.arange(8) == 2)


def test_a_replaced_code_keeps_its_place_at_the_next_step() -> None:
    codebook = with_dead_codes(EMA(dead_ratio=0.5), dead=[2])
    codebook.vectors[2] = 150
    far = torch.tensor([[5000.0]])
    step(codebook, far)
    assert codebook.vectors[2] == far
    # Unused in the next step, then chosen by rows nearby, towards which it moves by no more than 1 - decay.
    step(codebook, torch.arange(8.0)[:, None])
    torch.testing.assert_close(codebook.vectors[2], far[0], rtol=1e-6, atol=0)
    step(codebook, far + torch.tensor([[-10.0], [-10.0]]))
    assert 4999 < codebook.vectors[2] < 5000


def test_no_row_serves_two_codes() -> None:
    codebook = with_dead_codes(EMA(dead_ratio=0.5), dead=[1, 2, 3, 4, 5])
    step(codebook, torch.tensor([[-1.0], [-2.0]]))
    assert (codebook.usage == 1 / 8).sum() == 2
    assert sorted(codebook.vectors[codebook.usage == 1 / 8].flatten().tolist()) == [-2.0, -1.0]
    assert (codebook.usage < 0.5 / 8).sum() == 3  # they wait for the next steps
    step(codebook, torch.tensor([[-3.0], [-4.0]]))
    step(codebook, torch.tensor([[-5.0], [-6.0]]))
    assert (codebook.usage >= 0.5 / 8).all()


def test_small_batches_leave_no_code_for_dead() -> None:
    # Four rows for 64 codes: an absolute threshold on counts would replace nearly all codes at every step.
    vectors = torch.randn(64, 4)
    codebook = make_with(vectors, EMA(decay=0.99, dead_ratio=0.1))
    for batch in vectors[torch.randperm(64)].split(4) * 20:
        step(codebook, batch)
        assert not (codebook.usage == 1 / 64).any()
    # Up to what the smoothing takes from each vector.
    torch.testing.assert_close(codebook.vectors, vectors, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("update", [EMA(decay=0.5, dead_ratio=0), Frozen(decay=0.5)])
def test_without_a_ratio_no_code_is_ever_replaced(update: Update) -> None:
    vectors = torch.randn(8, 4)
    codebook = make_with(vectors, update)
    for _ in range(10):
        step(codebook, vectors[:1])
    assert (codebook.usage[1:] < 1e-3).all()
    torch.testing.assert_close(codebook.vectors, vectors, atol=0.1, rtol=0.1)


@each_update
@each_initializer
def test_a_restored_codebook_takes_the_same_next_steps(update: str, initializer: str) -> None:
    codebook = make_each(update, initializer=initializer)
    batches = [torch.randn(20, 4) for _ in range(5)]
    for batch in batches[:2]:
        step(codebook, batch)
    restored = make_each(update, initializer=initializer)
    restored.load_state_dict(state(codebook))
    torch.manual_seed(99)  # nothing depends on the random numbers of anyone else
    for batch in batches[2:]:
        step(codebook, batch)
        step(restored, batch)
        assert_same(state(restored), state(codebook))


def test_steps_replace_codes_by_different_draws() -> None:
    rows = torch.arange(1000.0)[:, None]
    drawn = []
    for steps in range(5):
        codebook = with_dead_codes(EMA(dead_ratio=0.5), dead=[2])
        codebook.steps.fill_(steps)
        step(codebook, rows)
        drawn.append(codebook.vectors[2].item())
    assert len(set(drawn)) == 5


def test_codebooks_of_another_number_make_other_draws() -> None:
    rows = torch.randn(1000, 4)
    codebooks = [make(EMA()) for _ in range(3)]
    for number, codebook in enumerate(codebooks):
        codebook.number = number % 2
        codebook.initialize(rows)
    assert not torch.equal(codebooks[0].vectors, codebooks[1].vectors)
    assert torch.equal(codebooks[0].vectors, codebooks[2].vectors)


@each_update
def test_a_snapshot_stays_as_it_was(update: str) -> None:
    codebook = make_each(update)
    step(codebook, torch.randn(41, 4))
    snapshot, expected = codebook.snapshot(), codebook.code_vectors().detach().clone()
    # A code to be replaced: this changes the code vectors whatever the update.
    codebook.usage[2] = 0
    learn([Observation(codebook, torch.randn(41, 4), torch.zeros(41, dtype=torch.int64))])
    assert torch.equal(snapshot, expected)
    assert torch.equal(codebook.code_vectors(), expected) == (update == "frozen")


# Several observations.


def in_parts(observation: Observation) -> list[Observation]:
    """As if its rows came in several batches."""
    codebook, *parts = observation
    return [Observation(codebook, *each) for each in zip(*(part.split(13) for part in parts), strict=True)]


@each_update
@each_initializer
def test_several_observations_of_a_codebook_are_one_batch(update: str, initializer: str) -> None:
    together, joined = (make_each(update, initializer=initializer) for _ in range(2))
    for batch in batches_with_dead_codes():
        learn([*in_parts(observe(together, batch)), observe(together, batch[:0])])
        step(joined, batch)
        assert_same(state(together), state(joined))


@each_update
def test_codebooks_that_learn_together_learn_as_each_would_alone(update: str) -> None:
    together, alone = ([make_each(update), make(EMA(dead_ratio=0.9), 5, 2)] for _ in range(2))
    for batch in batches_with_dead_codes():
        parts = [batch, batch[:, :2]]
        for codebook, rows in zip(alone, parts, strict=True):
            step(codebook, rows)
        # The observations of a codebook need not stand side by side.
        first, *others = in_parts(observe(together[0], parts[0]))
        learn([first, observe(together[1], parts[1]), *others])
        for each, other in zip(together, alone, strict=True):
            assert_same(state(each), state(other))


# Two ranks.


def batches_with_dead_codes(count: int = 6) -> list[Tensor]:
    """Rows whose distribution changes, so that codes die. Of 41, no code can have a share of exactly 1/8."""
    return [torch.randn(41, 4) + 3 * (number // 2) for number in range(count)]


def learn_on_ranks(
    rank, codebooks: list[Codebook], batches: list[Tensor], rows_on_first: list[int]
) -> tuple[list[dict[str, Tensor]], list[int]]:
    """Learn from this rank's part of each batch; the states afterwards, and the collectives of each step."""
    rank.join()
    collectives = []
    for batch, count in zip(batches, rows_on_first, strict=True):
        before = rank.collectives
        rows = batch[:count] if rank.index == 0 else batch[count:]
        learn([observe(codebook, rows) for codebook in codebooks])
        collectives.append(rank.collectives - before)
    return [state(codebook) for codebook in codebooks], collectives


def replacements(codebook: Codebook, batches: list[Tensor]) -> list[int]:
    """Learn from the joined batches in this process; how many codes each step replaced."""
    counts = []
    for batch in batches:
        step(codebook, batch)
        # To the last bit, as no moving average is.
        counts.append(int((codebook.usage == 1 / codebook.codebook_size).sum()))
    return counts


@each_update
@each_initializer
def test_two_ranks_learn_the_same_codebook_as_one(two_ranks, update: str, initializer: str) -> None:
    codebook = make_each(update, initializer=initializer)
    batches = batches_with_dead_codes()
    # On the third and the second batch, one rank has nothing but padding.
    ([first], _), ([second], _) = two_ranks(learn_on_ranks, [codebook], batches, [13, 41, 0, 1, 20, 40])
    assert_same(first, second)
    replaced = replacements(codebook, batches)
    assert any(replaced) == (update != "frozen")
    for name, tensor in codebook.state_dict().items():
        torch.testing.assert_close(first[name], tensor, atol=1e-6, rtol=1e-5)


@each_update
def test_a_step_is_one_collective_and_one_more_where_codes_are_replaced(two_ranks, update: str) -> None:
    codebook = make_each(update)
    batches = batches_with_dead_codes()
    step(codebook, batches[0])
    (_, first), (_, second) = two_ranks(learn_on_ranks, [codebook], batches[1:], [13, 41, 0, 1, 20])
    expected = [1 + bool(count) for count in replacements(codebook, batches[1:])]
    assert first == second == expected
    assert (2 in expected) == (update != "frozen")


def test_any_number_of_codebooks_is_one_collective_and_one_more_where_any_codes_are_replaced(two_ranks) -> None:
    # The first two replace codes, in different steps; the others never do.
    codebooks = [make(update) for update in (EMA(0.8, dead_ratio=0.5), EMA(dead_ratio=0.5), EMA(), Frozen())]
    batches = batches_with_dead_codes()
    for codebook in codebooks:
        step(codebook, batches[0])
    (first_states, first), (second_states, second) = two_ranks(
        learn_on_ranks, codebooks, batches[1:], [13, 41, 0, 1, 20]
    )
    replaced = [replacements(codebook, batches[1:]) for codebook in codebooks]
    assert first == second == [1 + any(counts) for counts in zip(*replaced, strict=True)]
    assert {1, 2} <= set(first)
    assert_same(first_states, second_states)
    for codebook, result in zip(codebooks, first_states, strict=True):
        torch.testing.assert_close(result, state(codebook), atol=1e-6, rtol=1e-6)


@each_initializer
def test_ranks_whose_first_batches_are_all_padding_wait_for_rows(two_ranks, initializer: str) -> None:
    codebook = make(EMA(), initializer=initializer)
    batches = [torch.zeros(0, 4), torch.randn(20, 4), torch.zeros(0, 4), torch.randn(20, 4)]
    ([first], _), ([second], _) = two_ranks(learn_on_ranks, [codebook], batches, [0, 20, 0, 0])
    assert_same(first, second)
    assert first["initialized"]
    assert first["steps"] == 2
    replacements(codebook, batches)
    torch.testing.assert_close(first["vectors"], codebook.vectors, atol=1e-6, rtol=0)


def learn_from_before_the_group(rank, batch: Tensor) -> dict[str, Tensor]:
    codebook = make(EMA(), initializer="kmeans")
    rank.join()
    step(codebook, batch.chunk(2)[rank.index])
    return state(codebook)


def test_a_codebook_built_before_the_process_group_is_shared_all_the_same(two_ranks) -> None:
    batch = torch.randn(40, 4)
    first, second = two_ranks(learn_from_before_the_group, batch)
    assert_same(first, second)
    codebook = make(EMA(), initializer="kmeans")
    step(codebook, batch)
    torch.testing.assert_close(first["vectors"], codebook.vectors, atol=1e-6, rtol=0)
