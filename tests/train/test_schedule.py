import pytest

from codec.train.schedule import cosine_with_warmup, geometric


def test_the_warmup_is_a_straight_line_that_ends_at_one():
    assert [cosine_with_warmup(step, 4, 100) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(("step", "factor"), [(10, 1.0), (30, 0.75), (40, 0.5), (50, 0.25), (70, 0.0)])
def test_the_descent_is_half_a_cosine(step, factor):
    assert cosine_with_warmup(step, 10, 70) == pytest.approx(factor, abs=1e-12)


def test_the_factor_never_rises_after_the_warmup_and_stays_at_zero_after_the_end():
    factors = [cosine_with_warmup(step, 10, 100) for step in range(10, 120)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-20:] == [0.0] * 20


@pytest.mark.parametrize(("warmup_steps", "steps"), [(0, 10), (0, 1), (10, 10), (20, 10), (1, 1)])
def test_a_run_of_any_length_has_a_factor_between_zero_and_one(warmup_steps, steps):
    assert all(0 <= cosine_with_warmup(step, warmup_steps, steps) <= 1 for step in range(steps))
    assert cosine_with_warmup(0, warmup_steps, steps) > 0


def test_a_geometric_schedule_goes_from_first_to_last_by_equal_factors():
    assert [geometric(step, 4, 8.0, 1.0) for step in range(6)] == pytest.approx([8.0, 4.0, 2.0, 1.0, 1.0, 1.0])
    assert geometric(0, 1, 0.5, 0.1) == 0.5
