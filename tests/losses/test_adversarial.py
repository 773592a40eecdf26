import pytest
import torch
from torch import Tensor

from codec.losses import ADVERSARIAL_LOSSES, feature_matching_loss

# Two discriminators with different numbers of logits, which count alike.
REAL = [torch.tensor([[2.0, 0.0, -1.0, 1.0]]), torch.tensor([[[0.5]]])]
FAKE = [torch.tensor([[-2.0, 0.0, 1.0, -1.0]]), torch.tensor([[[2.0]]])]

# (discriminator, generator), by hand.
EXPECTED = {
    "hinge": (((0 + 1 + 2 + 0) / 4 + 0.5) / 2 + ((0 + 1 + 2 + 0) / 4 + 3) / 2, ((3 + 1 + 0 + 2) / 4 + 0) / 2),
    "least_squares": (
        ((1 + 1 + 4 + 0) / 4 + 0.25) / 2 + ((4 + 0 + 1 + 1) / 4 + 4) / 2,
        ((9 + 1 + 0 + 4) / 4 + 1) / 2,
    ),
}


def test_every_loss_has_an_expected_value() -> None:
    assert EXPECTED.keys() == ADVERSARIAL_LOSSES.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_losses_are_those_computed_by_hand(name: str) -> None:
    loss = ADVERSARIAL_LOSSES[name]
    assert (loss.discriminator(REAL, FAKE).item(), loss.generator(FAKE).item()) == pytest.approx(EXPECTED[name])


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_each_side_moves_the_logits_its_own_way(name: str) -> None:
    loss = ADVERSARIAL_LOSSES[name]
    real, fake = (torch.full((2, 1, 5), 0.5).requires_grad_() for _ in range(2))
    loss.discriminator([real], [fake]).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    (gradient,) = torch.autograd.grad(loss.generator([fake]), fake)
    assert (gradient < 0).all()


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_a_perfect_player_has_no_loss(name: str) -> None:
    loss = ADVERSARIAL_LOSSES[name]
    right = {"hinge": -1.0, "least_squares": 0.0}[name]
    assert loss.discriminator([torch.ones(3, 2)], [torch.full((3, 2), right)]) == 0
    assert loss.generator([torch.ones(3, 2)]) == 0


def features(batch: int, scale: float = 1.0) -> list[list[Tensor]]:
    shapes = [[(3, 8), (4, 4)], [(2, 5, 2)]]
    return [[scale * torch.randn(batch, *shape) for shape in layers] for layers in shapes]


def cut(tensors: list, part: int) -> list:
    return [cut(each, part) if isinstance(each, list) else each.chunk(2)[part] for each in tensors]


def test_losses_of_a_batch_are_the_means_of_those_of_its_parts() -> None:
    # Examples of very different sizes.
    sizes = torch.tensor([1.0, 10.0, 1e-3, 0.0])
    real, fake = features(4), features(4)
    real = [[sizes.view(4, *[1] * (layer.ndim - 1)) * layer for layer in layers] for layers in real]
    measures = [lambda real, fake: feature_matching_loss(real, fake)]
    for loss in ADVERSARIAL_LOSSES.values():
        measures.append(lambda real, fake, loss=loss: loss.discriminator(real[0], fake[0]))
        measures.append(lambda real, fake, loss=loss: loss.generator(fake[0]))
    for measure in measures:
        parts = [measure(cut(real, part), cut(fake, part)) for part in range(2)]
        torch.testing.assert_close(measure(real, fake), sum(parts) / 2)


def test_feature_matching_is_the_one_computed_by_hand() -> None:
    real = [[torch.tensor([[1.0, -1.0], [4.0, 0.0]])], [torch.tensor([[2.0], [2.0]]), torch.zeros(2, 3)]]
    fake = [[torch.tensor([[1.0, 0.0], [4.0, 4.0]])], [torch.tensor([[2.0], [3.0]]), torch.full((2, 3), 0.001)]]
    # Examples 1/2 and 4/4; 0/2 and 1/2; a dead layer counts as if its features were 0.01.
    assert feature_matching_loss(real, fake).item() == pytest.approx((0.75 + 0.25 + 0.1) / 3)


def test_feature_matching_does_not_depend_on_the_scale_of_features() -> None:
    real, fake = features(3), features(3)
    scaled = [[[1000 * layer for layer in layers] for layers in each] for each in (real, fake)]
    torch.testing.assert_close(feature_matching_loss(*scaled), feature_matching_loss(real, fake))


def test_feature_matching_teaches_the_generator_alone() -> None:
    real, fake = ([[torch.randn(2, 3, 4, requires_grad=True)]] for _ in range(2))
    feature_matching_loss(real, fake).backward()
    assert real[0][0].grad is None
    assert fake[0][0].grad.abs().min() > 0
    assert feature_matching_loss(real, real) == 0


def test_the_maths_is_in_float32_under_autocast() -> None:
    real, fake = (
        [[layer.bfloat16() for layer in layers] for layers in each] for each in (features(2, 100.0), features(2, 100.0))
    )
    exact = [[[layer.float() for layer in layers] for layers in each] for each in (real, fake)]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(feature_matching_loss(real, fake), feature_matching_loss(*exact))
        for loss in ADVERSARIAL_LOSSES.values():
            assert torch.equal(loss.discriminator(real[0], fake[0]), loss.discriminator(exact[0][0], exact[1][0]))
            assert loss.generator(fake[0]).dtype == torch.float32


def test_features_of_other_discriminators_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer than argument 1"):
        feature_matching_loss(features(2), features(2)[:1])
