from pathlib import Path

import pytest

from codec.corpora.clip import Clip, hold_out


def corpus(speakers, clips_each):
    """Clips in no order; "" speaks, too, where it is among the speakers."""
    return [
        Clip(Path(f"{speaker or 'unknown'}/{number}.wav"), 1.0, speaker)
        for number in reversed(range(clips_each))
        for speaker in speakers
    ]


def test_speakers_that_are_held_out_leave_the_training_set():
    clips = corpus([f"{number}" for number in range(8)], clips_each=5)
    train, valid = hold_out(clips, 2, seed=0)
    assert len(valid) == len({clip.speaker for clip in valid}) == 2
    assert {clip.speaker for clip in train} == {f"{number}" for number in range(8)} - {clip.speaker for clip in valid}
    assert len(train) == 6 * 5


@pytest.mark.parametrize(("speakers", "held_out"), [(["a", "b", "c", "d", "e", "f", "g"], 2), ([""], 2), (["a"], 2)])
def test_with_few_speakers_clips_are_held_out(speakers, held_out):
    clips = corpus(speakers, clips_each=20)
    train, valid = hold_out(clips, held_out, seed=0)
    assert len(valid) == held_out
    assert {*train, *valid} == set(clips)
    assert len(train) + len(valid) == len(clips)


def test_at_most_a_fifth_of_the_clips_is_held_out():
    train, valid = hold_out(corpus([""], clips_each=14), 10, seed=0)
    assert (len(train), len(valid)) == (12, 2)


def test_clips_of_unknown_speakers_are_no_speaker():
    clips = corpus(["", *"abcdefgh"], clips_each=3)
    for seed in range(10):
        train, valid = hold_out(clips, 2, seed)
        assert all(clip.speaker for clip in valid)
        assert sum(not clip.speaker for clip in train) == 3


@pytest.mark.parametrize("speakers", ["abcdefgh", "ab"])
def test_what_is_held_out_depends_on_the_seed_and_not_on_the_order(speakers):
    clips = corpus(speakers, clips_each=20)
    train, valid = hold_out(clips, 2, seed=0)
    assert (train, valid) == hold_out(clips[::-1], 2, seed=0)
    assert [clip.path for clip in train] == sorted(clip.path for clip in train)
    assert len({tuple(hold_out(clips, 2, seed)[1]) for seed in range(5)}) > 1


def test_too_little_to_hold_out_of_is_refused():
    with pytest.raises(ValueError, match="clips must be at least 5 for some of them to be held out; got 4"):
        hold_out(corpus("a", clips_each=4), 1, seed=0)
    with pytest.raises(ValueError, match="count must be positive; got 0"):
        hold_out(corpus("a", clips_each=9), 0, seed=0)
