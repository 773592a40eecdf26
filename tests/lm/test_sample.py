import math
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch

from codec.lm.model import build_lm
from codec.lm.recipe import TransformerConfig
from codec.lm.sample import Sampling, generate, generate_all, longest_prompt
from codec.tokens import PATTERNS, CodecTokenizer

LOGITS = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
ALL = torch.ones(1, 4, dtype=torch.bool)


def tiny_lm(pattern="flatten", stages=3, shared=False, max_steps=64):
    """A model of random weights that are large enough for it to have opinions."""
    torch.manual_seed(1)
    tokenizer = CodecTokenizer(stages, 5, pattern, shared=shared)
    config = TransformerConfig(hidden_size=16, layers=2, heads=2, feed_forward=32, max_steps=max_steps)
    lm = build_lm(config, tokenizer).eval()
    with torch.no_grad():
        for weights in lm.parameters():
            weights.mul_(3)
    return lm


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sampled(lm, *arguments, **options):
    return generate_all(generate(lm, *arguments, generator=seeded(), **options))


def reads_of(lm):
    """A list that grows by the steps of each call of the model."""
    reads = []
    lm.register_forward_hook(lambda module, arguments, logits: reads.append(arguments[0].shape[-1]))
    return reads


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(temperature=0.5), [0.7246, 0.1812, 0.0652, 0.0290]),
        (Sampling(temperature=0), [1, 0, 0, 0]),
        (Sampling(temperature=1e-30), [1, 0, 0, 0]),
        (Sampling(temperature=1e-50), [1, 0, 0, 0]),
        (Sampling(top_k=2), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(top_k=9), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(top_p=0.74), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(top_p=0.76), [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
        (Sampling(top_p=0.01), [1, 0, 0, 0]),
        (Sampling(top_k=2, top_p=0.6), [1, 0, 0, 0]),
    ],
)
def test_probabilities_are_those_computed_by_hand(sampling, expected):
    order = torch.tensor([2, 0, 3, 1])
    for each in (order, order.argsort()):
        probabilities = sampling.probabilities(LOGITS[:, each], ALL)[0]
        torch.testing.assert_close(probabilities, torch.tensor(expected, dtype=torch.float32)[each], atol=1e-4, rtol=0)


def test_top_k_and_top_p_count_the_legal_tokens_only():
    legal = torch.tensor([[False, True, True, True], [True, True, True, False]])
    for sampling, expected in [
        (Sampling(), [[0, 0.5, 0.3, 0.2], [5 / 9, 2.5 / 9, 1.5 / 9, 0]]),
        (Sampling(top_k=2), [[0, 5 / 8, 3 / 8, 0], [2 / 3, 1 / 3, 0, 0]]),
        (Sampling(top_p=0.6), [[0, 5 / 8, 3 / 8, 0], [2 / 3, 1 / 3, 0, 0]]),
        (Sampling(temperature=0), [[0, 1, 0, 0], [1, 0, 0, 0]]),
        (Sampling(temperature=1e-50), [[0, 1, 0, 0], [1, 0, 0, 0]]),
        (Sampling(temperature=1e50), [[0, 1 / 3, 1 / 3, 1 / 3], [1 / 3, 1 / 3, 1 / 3, 0]]),
    ]:
        probabilities = sampling.probabilities(LOGITS.expand(2, -1), legal)
        torch.testing.assert_close(probabilities, torch.tensor(expected, dtype=torch.float32))


def test_tokens_are_drawn_as_often_as_they_are_probable():
    sampling = Sampling(temperature=0.7, top_k=3)
    rows = 20_000
    drawn = sampling.draw(LOGITS.expand(rows, -1), ALL.expand(rows, -1), seeded())
    shares = drawn.bincount(minlength=4) / rows
    torch.testing.assert_close(shares, sampling.probabilities(LOGITS, ALL)[0], atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or a positive number; got -1.0"),
        ({"temperature": math.nan}, "temperature must be 0 or a positive number; got nan"),
        ({"top_k": 0}, "top_k must be positive; got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1; got 0.0"),
        ({"top_p": 1.1}, "top_p must be above 0 and at most 1; got 1.1"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="lm must give finite logits"):
        Sampling().draw(LOGITS * math.nan, ALL)


@torch.no_grad()
def recomputed(lm, prompt, max_frames, sampling, generator):
    """One sample, the slow way: for each step the model reads all steps before it again."""
    tokenizer = lm.tokenizer
    grammar = tokenizer.grammar(prompt, prompt.shape[1] + max_frames)
    steps = [[tokenizer.bos_id] * tokenizer.width]
    while not grammar.ended:
        logits = lm(torch.tensor(steps).T[None])[:, -1]
        step = []
        for _ in range(tokenizer.width):
            legal = grammar.legal()
            token = sampling.draw(logits, legal[None], generator) if legal.sum() > 1 else legal.int().argmax()
            grammar.push(int(token))
            step.append(int(token))
        steps.append(step)
    return grammar.codes(prompt.shape[1])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0), Sampling(0.8, top_k=4, top_p=0.9)])
@pytest.mark.parametrize(
    ("pattern", "shared"), [*((pattern, False) for pattern in PATTERNS), ("flatten", True), ("coarse_first", True)]
)
def test_the_cache_changes_no_token(pattern, shared, sampling):
    lm = tiny_lm(pattern, shared=shared)
    for frames in (0, 4):
        prompt = torch.randint(5, (3, frames))
        expected = recomputed(lm, prompt, 5, sampling, seeded())
        (codes,) = sampled(lm, prompt[None], max_frames=5, sampling=sampling)
        assert codes.tolist() == expected.tolist()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_samples_side_by_side_end_where_they_want(pattern):
    lm = tiny_lm(pattern, stages=2)
    pieces = list(generate(lm, max_frames=12, batch_size=8, generator=seeded()))
    samples = generate_all(iter(pieces))
    lengths = [sample.shape[1] for sample in samples]
    assert len(samples) == 8
    assert min(lengths) < max(lengths) <= 12
    assert pieces[-1].codes.shape == (8, 2, 0)
    # Whoever decodes them side by side adds silence only after the end of a sample.
    for index in range(8):
        for before, after in pairwise(pieces[:-1]):
            assert before.lengths[index] == before.codes.shape[-1] or after.lengths[index] == 0
    assert all(set(sample.unique().tolist()) <= set(range(5)) for sample in samples)
    assert len({str(sample.tolist()) for sample in samples}) > 2


@pytest.mark.parametrize("pattern", PATTERNS)
def test_without_an_end_each_sample_has_all_frames(pattern):
    lm = tiny_lm(pattern)
    lm.register_forward_hook(
        lambda module, arguments, logits: logits.index_fill(-1, torch.tensor([15, 16, 17, 18]), 99)
    )
    ended = sampled(lm, max_frames=5, batch_size=2)
    assert [codes.shape for codes in ended] == [(3, 0), (3, 0)]
    endless = sampled(lm, max_frames=5, batch_size=2, may_end=False)
    assert [codes.shape for codes in endless] == [(3, 5), (3, 5)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    # Calls of the model, of one step each, before each frame is there.
    [("flatten", [3, 6, 9, 12]), ("parallel", [1, 2, 3, 4]), ("delay", [3, 4, 5, 6])],
)
def test_a_frame_comes_out_as_soon_as_its_last_row_is_drawn(pattern, expected):
    lm = tiny_lm(pattern)
    reads = reads_of(lm)
    read = [sum(reads) for frames in generate(lm, max_frames=4, may_end=False) if frames.codes.shape[-1] == 1]
    assert read == expected
    assert set(reads) == {1}


def test_coarse_first_gives_its_frames_with_the_last_stage():
    pieces = list(generate(tiny_lm("coarse_first"), max_frames=4, may_end=False))
    assert [piece.codes.shape[-1] for piece in pieces] == [1, 1, 1, 1, 0]


def test_a_prompt_is_read_at_once():
    lm = tiny_lm()
    reads = reads_of(lm)
    sampled(lm, torch.randint(5, (1, 3, 10)), max_frames=1, may_end=False)
    assert reads == [31, 1, 1]


@pytest.mark.parametrize(("pattern", "context"), [("flatten", 20), ("parallel", 7), ("delay", 9)])
def test_beyond_its_context_the_model_goes_on_from_the_later_half(pattern, context):
    lm = tiny_lm(pattern, max_steps=context)
    reads = reads_of(lm)
    lm.register_forward_hook(
        lambda module, arguments, logits: logits.index_fill(-1, torch.tensor(lm.tokenizer.eos_id), -99)
    )
    (codes,) = sampled(lm, max_frames=20, sampling=Sampling(0))
    assert codes.shape == (3, 20)
    assert max(reads) < context
    # By hand: six whole frames fit, and the last three of them begin the next sequence.
    expected = torch.zeros(3, 0, dtype=torch.int64)
    while expected.shape[1] < 20:
        known = expected[:, -3:]
        more = recomputed(lm, known, 8, Sampling(0), seeded())[:, : 6 - known.shape[1]]
        expected = torch.cat([expected, more], dim=1)
    assert codes.tolist() == expected[:, :20].tolist()


def test_a_sample_that_is_over_stays_so_beyond_the_context():
    lm = tiny_lm("delay", max_steps=9)
    lengths = [codes.shape[1] for codes in sampled(lm, max_frames=30, batch_size=8)]
    assert min(lengths) < 6 < max(lengths)


def test_the_same_seed_gives_the_same_codes():
    lm = tiny_lm()
    first, again = (sampled(lm, max_frames=6, may_end=False)[0] for _ in range(2))
    (other,) = generate_all(generate(lm, max_frames=6, may_end=False, generator=seeded(1)))
    assert first.tolist() == again.tolist() != other.tolist()


@pytest.mark.parametrize(
    ("pattern", "frames", "options", "message"),
    [
        (
            "flatten",
            6,
            {},
            "prompt must be at most 5 frames, so that one more fits into the context of 20 steps; got 6",
        ),
        ("coarse_first", 0, {"max_frames": 6}, "must fit into the context of 20 steps .* got 0 and 6 frames"),
        ("flatten", 0, {"max_frames": 0}, "max_frames and batch_size must be positive; got 0 and 1"),
        ("flatten", 0, {"max_steps": 3}, "context must hold a frame, which takes 4 steps; got 3"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(pattern, frames, options, message):
    options = {"max_frames": 1, "max_steps": 20, **options}
    lm = tiny_lm(pattern, max_steps=options.pop("max_steps"))
    with pytest.raises(ValueError, match=message):
        generate(lm, torch.zeros(1, 3, frames, dtype=torch.int64), **options)


@pytest.mark.parametrize("max_frames", [1, 4])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_longest_prompt_is_the_longest_that_is_taken(pattern, max_frames):
    for max_steps in range(6, 24):
        lm = tiny_lm(pattern, max_steps=max_steps)
        longest = longest_prompt(lm, max_frames)
        for frames in range(10):
            with nullcontext() if frames <= longest else pytest.raises(ValueError, match="context"):
                generate(lm, torch.zeros(1, 3, frames, dtype=torch.int64), max_frames=max_frames)


def test_a_prompt_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"with at least 3 stages; got shape \(1, 2, 4\)"):
        generate(tiny_lm(), torch.zeros(1, 2, 4, dtype=torch.int64), max_frames=1)
