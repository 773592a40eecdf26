from collections import Counter

import numpy as np
import pytest
import torch

from codec.lm.recipe import CorpusConfig
from codec.lm.windows import EDGE, NOWHERE, CodesSequences, MappedSequences, Windows, example_of, join, open_sequences
from codec.tokens import PATTERNS, CodecTokenizer


class Listed:
    """Sequences in memory, in which no code occurs twice: it tells where a window is from."""

    def __init__(self, pattern, frames, stages=3):
        self.tokenizer = CodecTokenizer(stages, 1000, pattern)
        numbers = torch.arange(sum(frames)).split(frames)
        self._ids = [self.tokenizer.encode(clip.expand(stages, -1)).view(self.tokenizer.width, -1) for clip in numbers]
        self.num_steps = np.array([ids.shape[1] for ids in self._ids])
        self._places = {}

    def __getitem__(self, index):
        return self._ids[index]

    def place_of(self, window):
        """Which sequence a window is of, and where it begins."""
        steps = window.ids.shape[1]
        if steps not in self._places:
            parts = [
                (ids[:, begin : begin + steps], (index, begin))
                for index, ids in enumerate(self._ids)
                for begin in range(ids.shape[1] - steps + 1)
            ]
            self._places[steps] = {part.numpy().tobytes(): place for part, place in parts}
            assert len(self._places[steps]) == len(parts)
        return self._places[steps][window.ids.numpy().tobytes()]


def random_codes(frames, stages=3, codebook_size=7):
    return [torch.randint(codebook_size, (stages, length)) for length in frames]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_token_files_and_codes_give_equal_sequences(make_corpus, pattern):
    tokenizer = CodecTokenizer(3, 7, pattern, fingerprint="00ff", frame_rate=12.5)
    codes = random_codes([5, 0, 1, 9])
    folder = make_corpus(tokenizer, codes)
    mapped, made = MappedSequences(folder), CodesSequences(folder, 0, "")
    for sequences in (mapped, made):
        assert sequences.num_steps.tolist() == [tokenizer.num_steps(clip.shape[1]) for clip in codes]
        assert sequences.tokenizer.allowances.tolist() == tokenizer.allowances.tolist()
        assert (sequences.tokenizer.fingerprint, sequences.tokenizer.frame_rate) == ("00ff", 12.5)
        for index, clip in enumerate(codes):
            assert sequences[index].dtype == torch.int64
            assert sequences[index].tolist() == tokenizer.encode(clip).view(tokenizer.width, -1).tolist()


@pytest.mark.parametrize("shared", [False, True])
def test_codes_become_sequences_of_another_pattern_and_of_fewer_stages(make_corpus, shared):
    codes = random_codes([5, 0, 1, 9])
    folder = make_corpus(CodecTokenizer(3, 7, "delay", shared=shared, extras=["speaker"]), codes)
    for stages, pattern in [(2, "flatten"), (1, ""), (0, "coarse_first"), (3, "parallel")]:
        sequences = open_sequences(
            CorpusConfig(str(folder.parent), num_quantizers=stages, pattern=pattern), folder.name
        )
        expected = CodecTokenizer(stages or 3, 7, pattern or "delay", shared=shared, extras=["speaker"])
        assert sequences.tokenizer.vocab_size == expected.vocab_size
        for index, clip in enumerate(codes):
            assert sequences[index].tolist() == expected.encode(clip).view(expected.width, -1).tolist()


def test_a_corpus_that_cannot_be_opened_is_named(make_corpus, tmp_path):
    folder = make_corpus(CodecTokenizer(3, 7), random_codes([2, 2]))
    for message, options in [
        ("num_quantizers must be at most 3, of .*flatten_3; got 4", {"num_quantizers": 4}),
        ("pattern must be one of .*; got 'zigzag'", {"pattern": "zigzag"}),
    ]:
        with pytest.raises(ValueError, match=message):
            open_sequences(CorpusConfig(str(tmp_path), **options), folder.name)
    for options in ({}, {"num_quantizers": 1}):
        with pytest.raises(ValueError, match=r"none.*(: cannot be read|has no manifest)"):
            open_sequences(CorpusConfig(str(tmp_path), **options), "none")
        with pytest.raises(ValueError, match=r"flatten_2 must hold clips; it has none"):
            open_sequences(CorpusConfig(str(tmp_path), **options), make_corpus(CodecTokenizer(2, 7), []).name)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_example_says_what_is_legal_in_each_place(pattern):
    sequences = Listed(pattern, [4, 0, 7])
    for index, frames in enumerate([4, 0, 7]):
        ids, allowances = example_of(sequences, index)
        assert ids.tolist() == sequences[index].tolist()
        assert allowances.tolist() == sequences.tokenizer.allowances_of(frames).view(ids.shape).tolist()
        assert sequences.tokenizer.allowances[allowances].gather(-1, ids[..., None]).all()


@pytest.mark.parametrize("steps", [4, 10, 19])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_windows_begin_at_frames_and_have_every_step_after_another(pattern, steps):
    sequences = Listed(pattern, [9, 2, 0, 14])
    windows = Windows(sequences, steps, seed=0)
    stride = sequences.tokenizer.steps_per_frame or 1
    wholes = [example_of(sequences, index) for index in range(4)]
    begins, predicted = set(), set()
    for number in range(200):
        window = windows[number]
        length = window.ids.shape[1]
        index, begin = sequences.place_of(window)
        whole = wholes[index]
        assert window.allowances.tolist() == whole.allowances[:, begin : begin + length].tolist()
        # As long as may be; short only where the sequence is over.
        assert length == min(steps, whole.ids.shape[1] - begin)
        assert begin == 0 or (begin - 1) % stride == 0
        begins.add((index, begin))
        predicted |= {(index, step) for step in range(begin + 1, begin + length)}
    assert predicted == {(index, step) for index, count in enumerate(sequences.num_steps) for step in range(1, count)}
    # None that has no more than the one before it.
    assert all(begin == 0 or begin + steps < sequences.num_steps[index] + stride for index, begin in begins)


@pytest.mark.parametrize("pattern", ["flatten", "delay"])
def test_both_ends_of_a_sequence_occur_often(pattern):
    sequences = Listed(pattern, [200])
    steps = 96
    windows = Windows(sequences, steps, seed=0)
    stride = sequences.tokenizer.steps_per_frame
    length = sequences.num_steps[0]
    begins = Counter(sequences.place_of(windows[number])[1] for number in range(1000))
    last = max(begins)
    assert last + steps >= length
    places = 2 + (last - 1) // stride
    often = (1 + steps // (EDGE * stride)) / (places + 2 * (steps // (EDGE * stride)))
    for end in (0, last):
        assert begins[end] / 1000 == pytest.approx(often, abs=0.02)
        assert begins[end] > 3 * 1000 / places


def test_a_sequence_is_as_likely_as_it_is_long():
    sequences = Listed("flatten", [30, 10, 0, 60])
    windows = Windows(sequences, 12, seed=0)
    counts = Counter(sequences.place_of(windows[number])[0] for number in range(1000))
    for index, steps in enumerate(sequences.num_steps):
        assert counts[index] / 1000 == pytest.approx(steps / sequences.num_steps.sum(), abs=0.03)


def test_a_window_depends_on_the_seed_and_its_number_alone():
    sequences = Listed("delay", [40, 30])
    first, again, other = (Windows(sequences, 12, seed) for seed in (3, 3, 4))
    expected = [first[number].ids.tolist() for number in range(20)]
    assert [again[number].ids.tolist() for number in reversed(range(20))] == expected[::-1]
    assert sum(other[number].ids.tolist() == expected[number] for number in range(20)) < 5


def test_ranks_share_the_batches_of_one_process_also_from_a_later_step_on():
    sequences = Listed("flatten", [9, 2, 0, 14])
    windows = Windows(sequences, 12, seed=0)
    whole = list(windows.batches(0, 5, 4, rank=0, world_size=1))
    assert len(whole) == 5
    for step, batch in enumerate(whole):
        expected = join([windows[number] for number in range(4 * step, 4 * step + 4)], sequences.tokenizer.pad_id)
        assert all(torch.equal(*pair) for pair in zip(batch, expected, strict=True))
    shares = [list(windows.batches(3, 5, 2, rank, 2)) for rank in (0, 1)]
    for step, parts in zip((3, 4), zip(*shares, strict=True), strict=True):
        examples = [(ids, allowances) for part in parts for ids, allowances in zip(*part, strict=True)]
        for (ids, allowances), *expected in zip(examples, *whole[step], strict=True):
            steps = ids.shape[-1]
            assert ids.tolist() == expected[0][:, :steps].tolist()
            assert allowances.tolist() == expected[1][:, :steps].tolist()
            assert (expected[1][:, steps:] == NOWHERE).all()


def test_shorter_examples_are_padded_at_their_ends():
    sequences = Listed("parallel", [1, 3], stages=2)
    ids, allowances = join([example_of(sequences, 0), example_of(sequences, 1)], sequences.tokenizer.pad_id)
    pad = sequences.tokenizer.pad_id
    assert ids.shape == allowances.shape == (2, 2, 5)
    assert ids[0, :, 3:].tolist() == [[pad, pad]] * 2
    assert allowances[0, :, 3:].tolist() == [[NOWHERE, NOWHERE]] * 2
    assert (allowances[0, :, :3] >= 0).all()
    assert (allowances[1] >= 0).all()


def test_windows_that_hold_a_frame_alone_are_refused():
    with pytest.raises(ValueError, match=r"data\.window_steps must be more than a frame's 3 steps; got 3"):
        Windows(Listed("flatten", [9]), 3, 0)
