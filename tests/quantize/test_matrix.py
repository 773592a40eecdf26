"""Every option with every other one: it trains, and its codes decode."""

import itertools
import random

import pytest
import torch
from torch import Tensor, nn

from codec.quantize import (
    EMA,
    Affine,
    Diversity,
    Frozen,
    Gradient,
    GroupedResidualVQ,
    InPlace,
    Orthogonal,
    ResidualVQ,
    VectorQuantize,
)
from codec.quantize import distance as distance_module
from codec.quantize.distance import DISTANCES
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.initialize import INITIALIZERS
from codec.quantize.loss import COMMITMENTS
from codec.quantize.update import UPDATES

DIM, SIZE = 8, 8

REGULARIZERS = {"none": (), "diversity": (Diversity(),), "orthogonal": (Diversity(), Orthogonal(max_codes=6))}
# Weights of a mixture have a value for each row and code.
MIXTURES = ("gumbel_softmax", "gumbel_softmax_hard", "reinmax")

Quantizer = VectorQuantize | ResidualVQ | GroupedResidualVQ
Combination = dict[str, str | int | bool | None]

# Of these all combinations are tested.
PIECES = {
    "distance": list(DISTANCES),
    "estimator": list(ESTIMATORS),
    "update": list(UPDATES),
    "initializer": list(INITIALIZERS),
    "kind": ["single", "stack"],
}
# Of these many, and any two.
OPTIONS = {
    **PIECES,
    "update": [*UPDATES, "synchronous"],
    "kind": ["single", "stack", "shared", "grouped"],
    "heads": ["1", "2 shared", "2 separate"],
    "codebook_dim": [None, 3],
    "affine": [False, True],
    "commitment": list(COMMITMENTS),
    "regularizers": list(REGULARIZERS),
    "manual": [False, True],
    "masked": [False, True],
}


def is_sensible(update: str, affine: bool = False, regularizers: str = "none", **others) -> bool:
    """Whether constructors take a combination."""
    return not (affine and update == "frozen") and (
        regularizers != "orthogonal" or update in ("gradient", "synchronous")
    )


def draw(count: int) -> list[Combination]:
    """So many random combinations of all options."""
    generator = random.Random(0)
    endless = iter(lambda: {option: generator.choice(values) for option, values in OPTIONS.items()}, None)
    return list(itertools.islice((combination for combination in endless if is_sensible(**combination)), count))


COMBINATIONS = [dict(zip(PIECES, values, strict=True)) for values in itertools.product(*PIECES.values())]
THINNED = draw(300)


def make_one(
    dim: int, update: str, heads: str = "1", affine: bool = False, regularizers: str = "none", **options
) -> VectorQuantize:
    return VectorQuantize(
        dim,
        SIZE,
        update=Gradient(decay=0.9, synchronous=0.5) if update == "synchronous" else UPDATES[update](decay=0.9),
        heads=int(heads[0]),
        separate_codebooks="separate" in heads,
        affine=Affine() if affine else None,
        regularizers=REGULARIZERS[regularizers],
        **options,
    )


def make(kind: str, manual: bool = False, **options) -> Quantizer:
    if kind == "single":
        return make_one(DIM, manual=manual, **options)
    if kind == "stack":
        return ResidualVQ([make_one(DIM, **options) for _ in range(2)], dropout=0.5, manual=manual)
    if kind == "shared":
        return ResidualVQ([make_one(DIM, **options)] * 2, manual=manual)
    groups = [ResidualVQ([make_one(DIM // 2, **options) for _ in range(2)], dropout=0.5) for _ in range(2)]
    return GroupedResidualVQ(groups, manual=manual)


def code_vectors(quantizer: Quantizer) -> list[Tensor]:
    """Those that are stored, as they are now."""
    stages = [part for part in quantizer.modules() if isinstance(part, VectorQuantize)]
    return [codebook.vectors.detach().clone() for stage in stages for codebook in stage.codebooks]


@pytest.mark.parametrize(
    "combination", COMBINATIONS + THINNED, ids=lambda options: "-".join(map(str, options.values()))
)
def test_it_trains_and_decodes(combination: Combination) -> None:
    options = dict(combination)
    lengths = torch.tensor([10, 20]) if options.pop("masked", False) else torch.tensor([20, 20])
    real = torch.arange(20) < lengths[:, None]
    quantizer = make(**options)
    encoder = nn.Conv1d(DIM, DIM, 1)
    optimizer = torch.optim.SGD([*encoder.parameters(), *quantizer.parameters()], lr=0.01)
    for number in range(3):
        before = code_vectors(quantizer)
        x = torch.randn(2, DIM, 20)
        latents = encoder(x)
        latents.retain_grad()
        quantized, codes, losses = quantizer(latents, lengths=lengths)
        loss = (quantized - x).square().mean() + sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if options.get("manual"):
            quantizer.apply_update()
        assert loss.isfinite()
        assert latents.grad.isfinite().all()
        assert torch.equal((latents.grad != 0).any(dim=1), real)
        assert ((codes >= 0) & (codes < SIZE)).all()
        frozen = number > 0 and options["update"] == "frozen"
        for vectors, earlier in zip(code_vectors(quantizer), before, strict=True):
            assert vectors.isfinite().all()
            assert torch.equal(vectors, earlier) == frozen
    quantizer.eval()
    x = torch.randn(2, DIM, 20)
    quantized, codes, _ = quantizer(x)
    assert torch.equal(quantizer.encode(x), codes)
    assert torch.equal(quantizer.decode(codes), quantized)


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(OPTIONS, 2)))
def test_any_two_options_meet(first: str, second: str) -> None:
    expected = {
        pair
        for pair in itertools.product(OPTIONS[first], OPTIONS[second])
        if is_sensible(**{"update": "gradient", first: pair[0], second: pair[1]})
    }
    assert {(combination[first], combination[second]) for combination in THINNED} == expected


@pytest.mark.parametrize("kind", OPTIONS["kind"])
@pytest.mark.parametrize("update", UPDATES)
def test_training_lowers_the_error(update: str, kind: str) -> None:
    quantizer = make(kind, update=update, initializer="samples")
    parameters = list(quantizer.parameters())
    optimizer = torch.optim.SGD(parameters, lr=2.0) if parameters else None
    held_out = torch.randn(4, DIM, 100)
    errors = []
    for _ in range(100):
        loss = sum(quantizer(torch.randn(4, DIM, 50)).losses.values())
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors.append((held_out - quantizer.decode(quantizer.encode(held_out))).square().mean().item())
    assert errors[-1] == errors[0] if update == "frozen" else errors[-1] < 0.95 * errors[0]


# Memory.


def set_block(monkeypatch: pytest.MonkeyPatch, elements: int) -> int:
    monkeypatch.setattr(distance_module, "BLOCK_ELEMENTS", elements)
    return elements


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_no_tensor_is_larger_than_a_block(
    distance: str, estimator: str, initializer: str, largest_tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, size, dim, block = 640, 64, 8, set_block(monkeypatch, 8192)
    quantizer = VectorQuantize(dim, size, distance=distance, estimator=estimator, initializer=initializer)
    x = torch.randn(1, dim, rows, requires_grad=True)
    with largest_tensor:
        for _ in range(2):
            result = quantizer(x)
            (result.quantized.sum() + result.losses["commitment"]).backward()
        quantizer.decode(quantizer.encode(x))
    assert largest_tensor.elements == (rows * size if estimator in MIXTURES else block)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    ("update", "commitment", "regularizers"),
    [("ema", "mse", "none"), ("in_place", "mse", "none"), ("gradient", "cross_entropy", "diversity")],
)
def test_all_memory_is_less_than_half_a_distance_matrix(
    distance: str, update: str, commitment: str, regularizers: str, largest_tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Also what losses keep for their backward pass, which is in no single tensor. The matrix would be 32 blocks.
    rows, size, dim, block = 16384, 128, 2, set_block(monkeypatch, 65536)
    quantizer = VectorQuantize(
        dim,
        size,
        distance=distance,
        update=UPDATES[update](),
        affine=Affine(),
        commitment=commitment,
        regularizers=REGULARIZERS[regularizers],
        initializer="samples",
    )
    x = torch.randn(1, dim, rows, requires_grad=True)
    with largest_tensor:
        for _ in range(2):
            result = quantizer(x)
            (result.quantized.sum() + sum(result.losses.values())).backward()
    assert largest_tensor.elements == block
    assert largest_tensor.peak < 4 * rows * size / 2


# Combinations that make no sense.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"separate_codebooks": True},
            "^separate_codebooks must be False with one head; there is nothing to separate$",
        ),
        *(
            (
                {"estimator": name, "temperature": 1.0},
                "^temperature must be None with an estimator that takes the neare",
            )
            for name, estimator in ESTIMATORS.items()
            if not estimator.tempered
        ),
        *(
            (
                {"update": update, "regularizers": [Diversity(), Orthogonal()]},
                r"^orthogonal must go with code vectors that learn by gradient, update=Gradient\(\); "
                f"got {type(update).__name__}, which no loss can move$",
            )
            for update in (EMA(), InPlace(), Frozen())
        ),
        (
            {"update": Frozen(), "affine": Affine()},
            "^affine must be None with a frozen update: it moves the code vectors$",
        ),
    ],
)
def test_a_combination_without_sense_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorQuantize(DIM, SIZE, **options)


def test_manual_inside_a_stack_is_refused() -> None:
    stages = [VectorQuantize(DIM, SIZE), VectorQuantize(DIM, SIZE, manual=True)]
    with pytest.raises(ValueError, match=r"^manual must be given to the stack, not to its stages$"):
        ResidualVQ(stages)
    groups = [ResidualVQ([VectorQuantize(DIM, SIZE)], manual=manual) for manual in (False, True)]
    with pytest.raises(ValueError, match=r"^manual must be given to the GroupedResidualVQ, not to its groups$"):
        GroupedResidualVQ(groups)


@pytest.mark.parametrize("kind", ["stack", "shared", "grouped"])
@pytest.mark.parametrize(("heads", "beam_size"), [("2 shared", 2), ("2 separate", 3), ("1", 0), ("1", -1)])
def test_a_beam_search_over_several_heads_is_refused(kind: str, heads: str, beam_size: int) -> None:
    quantizer = make(kind, update="ema", heads=heads)
    x = torch.randn(2, DIM, 20)
    quantizer(x)
    message = f"^beam_size must be positive, and 1 with several heads; got {beam_size}$"
    with pytest.raises(ValueError, match=message):
        quantizer.encode(x, beam_size=beam_size)
    assert torch.equal(quantizer.encode(x, beam_size=1), quantizer.eval()(x).codes)
