"""Which part of a step a piece of time belongs to."""

import torch
from torch.profiler import profile

from scripts.profile_step import label, part, profile_step, share_out


class Layer(torch.nn.Module):
    """`count` sines, with operators around them that make no node of the graph of autograd."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.zeros(3)
        for _ in range(self.count):
            x = x.sin()
        torch.zeros(3)
        return x


def take(first: Layer, second: Layer) -> None:
    second(first(torch.ones(3, requires_grad=True))).sum().backward()
    with part("averaging"), torch.no_grad():
        torch.zeros(3)


def test_backward_belongs_to_the_part_that_it_undoes() -> None:
    first, second = Layer(2), Layer(6)
    label(first, "forward", "first")
    label(second, "forward", "second")
    with profile() as profiler:
        take(first, second)
    parts = share_out(profiler.events(), "count").parts  # of the events, for the sake of exact numbers
    assert parts["second, backward"] == 3 * parts["first, backward"] > 0
    # The sum, and the leaf, whose node has no number.
    assert set(parts) == {
        "first",
        "second",
        "first, backward",
        "second, backward",
        "averaging",
        "other",
        "other, backward",
    }


def test_shares_add_up_and_come_from_the_largest_to_the_smallest() -> None:
    found = profile_step(lambda: take(Layer(2), Layer(6)), "cpu")
    for shares in found:
        assert abs(sum(shares.values()) - 1) < 1e-9
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert {"aten::sin", "aten::cos", "between operators"} <= set(found.operators)


def test_a_part_within_a_part_is_counted_once() -> None:
    def step() -> None:
        with part("outer"), part("inner"):
            torch.ones(3).sin()

    with profile() as profiler:
        step()
    parts = share_out(profiler.events(), "count").parts
    assert set(parts) == {"outer", "inner"}
    assert parts["outer"] < parts["inner"]
