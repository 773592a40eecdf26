"""What a model around a quantizer may do with it."""

import pytest
import torch
from torch import nn

from codec.quantize import EMA, Gradient, GroupedResidualVQ, ResidualVQ, Usage, VectorQuantize
from codec.quantize.distance import direction

DIM, SIZE = 6, 16


def make(kind: str, **options) -> nn.Module:
    if kind == "single":
        return VectorQuantize(DIM, SIZE, **options)
    if kind == "stack":
        return ResidualVQ([VectorQuantize(DIM, SIZE, **options) for _ in range(3)])
    return GroupedResidualVQ([ResidualVQ([VectorQuantize(DIM // 2, SIZE, **options)] * 3) for _ in range(2)])


each_kind = pytest.mark.parametrize("kind", ["single", "stack", "grouped"])


@each_kind
@pytest.mark.parametrize("training", [True, False])
def test_the_output_may_be_changed_in_place(kind: str, training: bool) -> None:
    quantizer = make(kind)
    x = torch.randn(2, DIM, 30, requires_grad=True)
    quantizer(x)
    quantizer.train(training)
    quantized, _, losses = quantizer(x)
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantized.add_(1).relu_()
    (quantized.sum() + losses["commitment"]).backward()
    assert x.grad.isfinite().all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())


@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_model_keeps_codebooks_and_codes_of_float32(kind: str, dtype: torch.dtype) -> None:
    quantizer = make(kind, codebook_dim=2)
    x = torch.randn(2, DIM, 30).to(dtype)
    quantizer(x)
    quantizer.eval()
    codes, before = quantizer.encode(x), {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer.to(dtype)
    for name, tensor in quantizer.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])
    assert torch.equal(quantizer.encode(x), codes)
    assert quantizer(x).quantized.dtype == dtype


@pytest.mark.parametrize("update", [EMA(), Gradient()])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_teaches_nothing(update, value: float) -> None:
    quantizer = make("stack", update=update)
    x = torch.randn(2, DIM, 30)
    quantizer(x)
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    x[0, 0, 0] = value
    quantizer(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())


@each_kind
@pytest.mark.parametrize("update", [EMA(), Gradient()])
def test_an_evaluation_keeps_its_gradient_while_training_goes_on(kind: str, update) -> None:
    quantizer = make(kind, update=update, distance="unit_cosine")
    x = torch.randn(2, DIM, 30, requires_grad=True)
    quantizer(x)
    expected = torch.autograd.grad(quantizer.eval()(x).losses["commitment"], x)[0]
    loss = quantizer(x).losses["commitment"]
    quantizer.train()(x + 1)
    assert torch.equal(torch.autograd.grad(loss, x)[0], expected)


@pytest.mark.parametrize("kind", ["stack", "grouped"])
def test_targets_of_a_first_batch_of_padding_wait_for_rows(kind: str) -> None:
    quantizer = make(kind)
    x = torch.randn(2, DIM, 30, requires_grad=True)
    codes = torch.zeros(quantizer(x.detach()).codes.shape, dtype=torch.int64)
    fresh = make(kind)
    losses = fresh(x, torch.zeros(2, 30, dtype=torch.bool), target_codes=codes).losses
    assert losses["cross_entropy"] == 0
    losses["cross_entropy"].backward()
    assert not any(codebook.initialized for group in fresh.modules() for codebook in getattr(group, "codebooks", []))


def test_a_loss_without_known_targets_in_some_stages_is_that_of_the_others() -> None:
    quantizer = make("stack").eval()
    quantizer.train()(torch.randn(2, DIM, 30))
    quantizer.eval()
    x, codes = torch.randn(2, DIM, 30), torch.full((2, 3, 30), -1)
    codes[:, 0] = 5
    expected = quantizer.stages[0](x, target_codes=codes[:, 0]).losses["cross_entropy"]
    assert torch.equal(quantizer(x, target_codes=codes).losses["cross_entropy"], expected)


def test_a_gradient_of_a_gradient_is_refused_rather_than_wrong() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    gradient = torch.autograd.grad(direction(x).pow(3).sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_use_of_groups_is_that_of_their_stages_one_after_the_other() -> None:
    quantizer = make("grouped")
    codes = quantizer(torch.randn(2, DIM, 30)).codes
    usage, by_hand = Usage(quantizer.codebook_sizes), Usage([SIZE])
    usage.add(codes.flatten(1, 2))
    by_hand.add(codes[:, 1, 2:])
    assert usage.report().perplexity[5] == by_hand.report().perplexity[0]


@pytest.mark.parametrize("dim", [0, -3])
def test_a_stack_of_no_size_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=rf"^dim must be positive; got {dim}$"):
        ResidualVQ([VectorQuantize(DIM, SIZE)], dim=dim)
