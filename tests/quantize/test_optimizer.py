import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, optim

from codec.quantize.optimizer import CodebookOptimizer

SIZE, DIM = 8, 4

# To the last bit.
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)

OPTIMIZERS = {
    "sgd": partial(optim.SGD, lr=0.1),
    "sgd with decay": partial(optim.SGD, lr=0.1, weight_decay=0.1),
    "momentum": partial(optim.SGD, lr=0.1, momentum=0.9),
    "nesterov": partial(optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": optim.Adam,
    "amsgrad": partial(optim.Adam, amsgrad=True),
    "adam one by one": partial(optim.Adam, foreach=False),
    "adamw": optim.AdamW,
    "radam": optim.RAdam,
    "rmsprop": partial(optim.RMSprop, centered=True, momentum=0.5),
    "adagrad": optim.Adagrad,
    "adadelta": optim.Adadelta,
}
each_optimizer = pytest.mark.parametrize("factory", OPTIMIZERS.values(), ids=OPTIMIZERS)
Factory = Callable[[list[Tensor]], optim.Optimizer]


@each_optimizer
def test_its_steps_are_those_of_the_optimizer_outside(factory: Factory) -> None:
    vectors = torch.randn(SIZE, DIM)
    expected = vectors.clone().requires_grad_()
    inside, outside = CodebookOptimizer(factory, SIZE, DIM), factory([expected])
    for _ in range(5):
        gradient = torch.randn(SIZE, DIM)
        inside.step(vectors, gradient.clone())
        expected.grad = gradient
        outside.step()
        assert_same(vectors, expected.detach())


@each_optimizer
def test_its_state_is_in_the_state_dict(factory: Factory) -> None:
    first, second = CodebookOptimizer(factory, SIZE, DIM), CodebookOptimizer(factory, SIZE, DIM)
    assert all(value.eq(0).all() for value in first.state_dict().values())
    vectors = torch.randn(SIZE, DIM)
    for _ in range(3):
        first.step(vectors, torch.randn(SIZE, DIM))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    others = vectors.clone()
    for _ in range(3):
        gradient = torch.randn(SIZE, DIM)
        first.step(vectors, gradient.clone())
        second.step(others, gradient.clone())
        assert_same(others, vectors)
        assert_same(second.state_dict(), first.state_dict())


def test_the_state_of_adam_has_the_names_of_torch() -> None:
    assert set(CodebookOptimizer(optim.Adam, SIZE, DIM).state_dict()) == {
        "state.step",
        "state.exp_avg",
        "state.exp_avg_sq",
    }


@each_optimizer
def test_a_code_that_is_reset_moves_as_from_zeros_and_the_others_as_before(factory: Factory) -> None:
    optimizer = CodebookOptimizer(factory, SIZE, DIM)
    for _ in range(3):
        optimizer.step(torch.randn(SIZE, DIM), torch.randn(SIZE, DIM))
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.reset(torch.tensor([1, 6]))
    kept = [0, 2, 3, 4, 5, 7]
    for name, value in optimizer.state_dict().items():
        if value.ndim == 0:
            assert_same(value, before[name])
        else:
            assert (before[name] != 0).all()
            assert (value[[1, 6]] == 0).all()
            assert_same(value[kept], before[name][kept])


def test_the_vectors_of_an_earlier_step_stay_where_they_are() -> None:
    optimizer = CodebookOptimizer(optim.Adam, SIZE, DIM)
    first, second = torch.zeros(SIZE, DIM), torch.zeros(SIZE, DIM)
    optimizer.step(first, torch.ones(SIZE, DIM))
    after = first.clone()
    optimizer.step(second, torch.ones(SIZE, DIM))
    assert_same(first, after)
    assert (second != 0).all()


REFUSED = {
    "mu_product of NAdam": optim.NAdam,
    "sum of Adagrad": partial(optim.Adagrad, initial_accumulator_value=0.1),
    "step_size of Rprop": optim.Rprop,
    "eta of ASGD": optim.ASGD,
    "exp_inf of Adamax": optim.Adamax,
    # Their rows are not the state of a code.
    "(row|col)_var of Adafactor": optim.Adafactor,
}


@pytest.mark.parametrize(("what", "factory"), REFUSED.items(), ids=REFUSED)
def test_a_state_that_does_not_start_at_zeros_for_each_code_is_refused(what: str, factory: Factory) -> None:
    with pytest.raises(ValueError, match=rf"^the optimizer's state must start at zeros.*; got {what}$"):
        CodebookOptimizer(factory, SIZE, DIM)
