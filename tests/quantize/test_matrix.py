"""Every option with every other one: it trains, and its codes decode."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from codec.quantize import ResidualVQ, VectorQuantize
from codec.quantize import distance as distance_module
from codec.quantize.distance import DISTANCES
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.initialize import INITIALIZERS
from codec.quantize.update import UPDATES

DIM, SIZE, STEPS = 4, 8, 4

COMBINATIONS = list(itertools.product(DISTANCES, ESTIMATORS, UPDATES, INITIALIZERS, [None, 3], [1, 3]))


def make(
    distance: str, estimator: str, update: str, initializer: str, codebook_dim: int | None, stages: int
) -> VectorQuantize | ResidualVQ:
    """One quantizer alone, or a stack with dropout."""
    quantizers = [
        VectorQuantize(
            DIM,
            SIZE,
            codebook_dim=codebook_dim,
            distance=distance,
            estimator=estimator,
            initializer=initializer,
            update=UPDATES[update](decay=0.9),
        )
        for _ in range(stages)
    ]
    return quantizers[0] if stages == 1 else ResidualVQ(quantizers, dropout=0.5)


def codebooks(quantizer: nn.Module) -> list[Tensor]:
    return [part.codebook.vectors for part in quantizer.modules() if isinstance(part, VectorQuantize)]


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda options: "-".join(map(str, options)))
def test_it_trains_and_decodes(combination: tuple) -> None:
    quantizer = make(*combination)
    encoder = nn.Conv1d(DIM, DIM, 1)
    optimizer = torch.optim.SGD([*encoder.parameters(), *quantizer.parameters()], lr=0.01)
    for number in range(STEPS):
        before = [vectors.detach().clone() for vectors in codebooks(quantizer)]
        x = torch.randn(2, DIM, 20)
        latents = encoder(x)
        latents.retain_grad()
        quantized, codes, losses = quantizer(latents)
        loss = (quantized - x).square().mean() + sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
        assert latents.grad.isfinite().all()
        assert (latents.grad != 0).any(dim=1).all()
        assert ((codes >= 0) & (codes < SIZE)).all()
        frozen = number > 0 and "frozen" in combination
        for vectors, earlier in zip(codebooks(quantizer), before, strict=True):
            assert vectors.isfinite().all()
            assert torch.equal(vectors, earlier) == frozen
    quantizer.eval()
    x = torch.randn(2, DIM, 20)
    result = quantizer(x)
    assert torch.equal(quantizer.encode(x), result.codes)
    assert torch.equal(quantizer.decode(result.codes), result.quantized)


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("update", UPDATES)
def test_training_lowers_the_error(update: str, stages: int) -> None:
    quantizer = make("euclidean", "straight_through", update, "samples", None, stages)
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
    assert errors[-1] == errors[0] if update == "frozen" else errors[-1] < 0.9 * errors[0]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_memory_stays_near_one_block(
    distance: str, estimator: str, initializer: str, largest_tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, size, dim, block = 600, 64, 8, 8192
    monkeypatch.setattr(distance_module, "BLOCK_ELEMENTS", block)
    quantizer = VectorQuantize(dim, size, distance=distance, estimator=estimator, initializer=initializer)
    x = torch.randn(1, dim, rows, requires_grad=True)
    with largest_tensor:
        for _ in range(2):
            result = quantizer(x)
            (result.quantized.sum() + result.losses["commitment"]).backward()
        quantizer.decode(quantizer.encode(x))
    # Weights of a mixture have a value for each row and code; nothing else does, and nothing has one for each element.
    assert largest_tensor.elements == (rows * size if estimator == "gumbel_softmax" else block)
