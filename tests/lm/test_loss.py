import math

import pytest
import torch

from codec.lm.loss import StageLoss, StageSums, score, spans, stage_sums, to_score
from codec.lm.windows import NOWHERE, CodesSequences, Example, MappedSequences, example_of, join
from codec.tokens import PATTERNS, CodecTokenizer

FRAMES = [5, 0, 1, 8]
# Each pattern, and shared ids where there are such.
TOKENIZERS = [
    *((pattern, shared) for pattern in PATTERNS for shared in (False, True)[: 1 if PATTERNS[pattern].stacked else 2]),
]


@pytest.fixture
def corpus(make_corpus):
    """`corpus(pattern, shared)`: sequences of `FRAMES` frames of 3 stages of 6 codes, 12.5 frames a second."""

    def corpus(pattern, shared=False):
        tokenizer = CodecTokenizer(3, 6, pattern, shared=shared, extras=["speaker"], frame_rate=12.5)
        return MappedSequences(make_corpus(tokenizer, [torch.randint(6, (3, frames)) for frames in FRAMES]))

    return corpus


@torch.no_grad()
def reference(lm, ids, frames):
    """Nats and number of tokens by stage, token by token: what is legal says the grammar, as when it is sampled.

    Of places where one token is legal there is nothing to say: their nats must be 0.
    """
    tokenizer = lm.tokenizer
    logits = lm(ids[None])[0]
    stages = tokenizer.allowances_of(frames).view(ids.shape)
    grammar = tokenizer.grammar()
    nats, tokens = torch.zeros(3), torch.zeros(3)
    for step in range(1, ids.shape[1]):
        for row in range(tokenizer.width):
            legal, token = grammar.legal(), int(ids[row, step])
            masked = logits[step - 1].masked_fill(~legal, -math.inf)
            nat = -masked.log_softmax(0)[token]
            if legal.sum() == 1:
                assert nat == 0
            else:
                stage = int(stages[row, step])
                nats[stage] += nat
                tokens[stage] += 1
            grammar.push(token)
    assert grammar.ended
    return StageSums(nats, tokens)


def alone(example):
    """A batch of one."""
    return type(example)(*(part[None] for part in example))


@pytest.mark.parametrize(("pattern", "shared"), TOKENIZERS)
def test_sums_are_those_of_masked_logits_of_the_whole_vocabulary(corpus, tiny_lm, pattern, shared):
    sequences = corpus(pattern, shared)
    lm = tiny_lm(sequences.tokenizer)
    for index, frames in enumerate(FRAMES):
        example = example_of(sequences, index)
        expected = reference(lm, example.ids, frames)
        sums = stage_sums(lm, alone(example))
        torch.testing.assert_close(sums.nats, expected.nats, rtol=1e-4, atol=1e-4)
        assert sums.tokens.tolist() == expected.tokens.tolist() == [frames + 1, frames, frames]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_padding_costs_nothing(corpus, tiny_lm, pattern):
    sequences = corpus(pattern)
    lm = tiny_lm(sequences.tokenizer)
    examples = [example_of(sequences, index) for index in range(len(FRAMES))]
    together = stage_sums(lm, join(examples, sequences.tokenizer.pad_id))
    singly = [stage_sums(lm, alone(example)) for example in examples]
    torch.testing.assert_close(together.nats, sum(sums.nats for sums in singly), rtol=1e-4, atol=1e-4)
    assert together.tokens.tolist() == sum(sums.tokens for sums in singly).tolist()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_window_costs_what_its_part_of_the_sequence_costs_there(corpus, tiny_lm, pattern):
    sequences = corpus(pattern)
    lm = tiny_lm(sequences.tokenizer)
    ids, allowances = example_of(sequences, 3)
    # From the beginning, what was before is the same: the costs of all steps add up.
    first = stage_sums(lm, alone(type(example_of(sequences, 3))(ids[:, :6], allowances[:, :6])))
    unknown = allowances.clone()
    unknown[:, :6] = -1
    rest = stage_sums(lm, alone(type(example_of(sequences, 3))(ids, unknown)))
    whole = stage_sums(lm, alone(example_of(sequences, 3)))
    torch.testing.assert_close(first.nats + rest.nats, whole.nats, rtol=1e-4, atol=1e-4)
    assert (first.tokens + rest.tokens).tolist() == whole.tokens.tolist()


def test_the_loss_teaches_all_weights(corpus, tiny_lm):
    sequences = corpus("delay")
    loss = StageLoss(tiny_lm(sequences.tokenizer))
    loss(*alone(example_of(sequences, 0))).nats.sum().backward()
    for name, weights in loss.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all()
        assert weights.grad.abs().max() > 0


@pytest.mark.parametrize(("pattern", "shared"), TOKENIZERS)
def test_bits_per_second_are_nats_over_ln_2_and_seconds(corpus, tiny_lm, pattern, shared):
    sequences = corpus(pattern, shared)
    lm = tiny_lm(sequences.tokenizer)
    told = to_score(score(lm, sequences, range(4)), clips=4, frame_rate=12.5)
    nats = sum(reference(lm, sequences[index], frames).nats for index, frames in enumerate(FRAMES))
    seconds = sum(FRAMES) / 12.5
    assert told.seconds == pytest.approx(seconds)
    assert told.bits_per_second == pytest.approx(float(nats.sum()) / math.log(2) / seconds, rel=1e-4)
    assert told.bits_by_stage == pytest.approx((nats / math.log(2) / seconds).tolist(), rel=1e-4)
    # One token more than codes for each clip: that which ends it.
    assert told.nats == pytest.approx(float(nats.sum()) / (3 * sum(FRAMES) + 4), rel=1e-4)
    assert told.nats_by_stage[0] == pytest.approx(float(nats[0]) / (sum(FRAMES) + 4), rel=1e-4)


@pytest.mark.parametrize(("pattern", "shared"), TOKENIZERS)
def test_without_an_opinion_the_codes_cost_their_bits(corpus, tiny_lm, pattern, shared):
    sequences = corpus(pattern, shared)
    lm = tiny_lm(sequences.tokenizer)
    with torch.no_grad():
        lm.transformer.lm_head.weight.zero_()
    told = to_score(score(lm, sequences, range(4)), clips=4, frame_rate=12.5)
    # In places of stage 0, the end is possible too.
    assert told.nats_by_stage == pytest.approx([math.log(7), math.log(6), math.log(6)])
    assert told.bits_by_stage[1:] == pytest.approx([12.5 * math.log2(6)] * 2)


def test_means_are_those_computed_by_hand():
    # Two clips of 10 frames in all, at 5 frames a second.
    sums = StageSums(torch.tensor([24.0, 5.0]) * math.log(2), torch.tensor([12.0, 10.0]))
    told = to_score(sums, clips=2, frame_rate=5.0)
    assert told.seconds == 2
    assert told.bits_by_stage == pytest.approx([12, 2.5])
    assert told.bits_per_second == pytest.approx(14.5)
    assert told.nats_by_stage == pytest.approx([2 * math.log(2), 0.5 * math.log(2)])
    assert told.nats == pytest.approx(29 / 22 * math.log(2))
    unknown = to_score(sums, clips=2, frame_rate=None)
    assert math.isnan(unknown.bits_per_second)
    assert unknown.nats == told.nats


def test_the_shares_of_ranks_add_up(corpus, tiny_lm):
    sequences = corpus("coarse_first")
    lm = tiny_lm(sequences.tokenizer)
    whole = score(lm, sequences, range(4))
    shares = [score(lm, sequences, range(rank, 4, 5)) for rank in range(5)]
    assert shares[4].tokens.tolist() == [0, 0, 0]
    for total, parts in zip(whole, zip(*shares, strict=True), strict=True):
        torch.testing.assert_close(sum(parts), total)


@pytest.mark.parametrize(("pattern", "stride"), [("flatten", 3), ("delay", 1), ("coarse_first", 1)])
@pytest.mark.parametrize("max_steps", [4, 7, 16, 64])
def test_of_a_sequence_beyond_the_context_each_step_counts_once(pattern, stride, max_steps):
    tokenizer = CodecTokenizer(3, 6, pattern)
    ids = tokenizer.encode(torch.randint(6, (3, 11))).view(tokenizer.width, -1)
    example = Example(ids, tokenizer.allowances_of(11).view(ids.shape))
    covered = []
    for part in spans(example, max_steps, stride):
        steps = part.ids.shape[1]
        counted = (part.allowances != NOWHERE).any(0).tolist()
        assert steps <= max_steps
        first = counted.index(True)
        begin = len(covered) - first
        assert torch.equal(part.ids, ids[:, begin : begin + steps])
        assert torch.equal(part.allowances[:, first:], example.allowances[:, len(covered) : begin + steps])
        assert all(counted[first:])
        assert begin == 0 or (begin - 1) % stride == 0
        assert begin == 0 or first >= min(max_steps // 2, max_steps - stride), "what comes before"
        covered += counted[first:]
    assert len(covered) == ids.shape[1]


def test_a_sequence_beyond_the_context_is_scored_in_parts(make_corpus, tiny_lm):
    tokenizer = CodecTokenizer(1, 6)
    codes = torch.randint(6, (1, 150))
    sequences = CodesSequences(make_corpus(tokenizer, [codes]), 0, "")
    lm = tiny_lm(tokenizer)
    assert lm.max_steps == 64
    nats, tokens = score(lm, sequences, range(1))
    assert tokens.tolist() == [151]
    with torch.no_grad():
        ids = sequences[0]
        parts = [(0, 1, 64), (32, 64, 96), (64, 96, 128), (96, 128, 152)]
        expected = 0.0
        for begin, first, end in parts:
            logits = lm(ids[None, :, begin : end - 1])[0, first - 1 - begin :]
            legal = tokenizer.allowances[0]
            chances = logits.masked_fill(~legal, -torch.inf).log_softmax(-1)
            expected -= chances.gather(1, ids[0, first:end, None]).sum().double()
    torch.testing.assert_close(nats[0], expected, rtol=1e-5, atol=0)
