import json

import pytest
import torch
from torch.utils.data import Dataset

from codec.corpora.clip import Clip
from codec.corpora.corpus import find_clips
from codec.train.batches import SkipList, batches
from codec.train.crops import Crop, Crops, NoAudioError


class Numbers(Dataset[Crop]):
    """Crop number `index` holds its index, and the number of threads of the process that read it; there are 1000."""

    def __getitem__(self, index: int) -> Crop:
        if index >= 1000:
            raise NoAudioError(f"crop {index} cannot be read")
        return Crop(
            torch.tensor([[float(index), float(torch.get_num_threads())]]), ((f"{index}", "odd"),) * (index % 2)
        )


@pytest.fixture
def crops(librispeech, tmp_path):
    """Of speech, and of a file that is not there."""
    clips = find_clips(librispeech / "train-clean-100").clips
    return Crops([*clips, Clip(tmp_path / "gone.wav", 1.0)], 16_000, 400, seed=0, speed=(0.9, 1.1))


def indices(batch):
    return [waveform[:, 0, 0].int().tolist() for waveform in batch.waveforms]


def test_each_rank_gets_its_share_of_each_micro_batch():
    common = {"first_step": 2, "steps": 4, "batch_size": 8, "micro_batches": 2, "world_size": 2}
    first, second = (list(batches(Numbers(), rank=rank, **common)) for rank in (0, 1))
    assert [indices(batch) for batch in first] == [[[16, 17], [20, 21]], [[24, 25], [28, 29]]]
    assert [indices(batch) for batch in second] == [[[18, 19], [22, 23]], [[26, 27], [30, 31]]]
    assert second[0].skipped == [("19", "odd"), ("23", "odd")]


def test_ranks_and_micro_batches_joined_are_the_batch_of_one(crops):
    common = {"first_step": 0, "steps": 3, "batch_size": 8}
    whole = batches(crops, **common)
    ranks = [batches(crops, rank=rank, world_size=2, micro_batches=2, **common) for rank in (0, 1)]
    for one, *parts in zip(whole, *ranks, strict=True):
        joined = [waveform for micro in zip(*(part.waveforms for part in parts), strict=True) for waveform in micro]
        assert torch.equal(torch.cat(joined), *one.waveforms)
        assert sorted(file for part in parts for file in part.skipped) == sorted(one.skipped)


def test_from_the_middle_the_stream_is_that_of_an_uninterrupted_run(crops):
    whole = list(batches(crops, first_step=0, steps=5, batch_size=4))
    resumed = list(batches(crops, first_step=3, steps=5, batch_size=4))
    assert [len(whole), len(resumed)] == [5, 2]
    for expected, batch in zip(whole[3:], resumed, strict=True):
        assert torch.equal(*expected.waveforms, *batch.waveforms)
        assert expected.skipped == batch.skipped
    assert any(batch.skipped for batch in whole)


def test_a_run_that_is_over_has_no_batches(crops):
    assert list(batches(crops, first_step=5, steps=5, batch_size=4)) == []


@pytest.mark.slow
def test_workers_give_what_this_process_reads(crops):
    common = {"first_step": 1, "steps": 7, "batch_size": 4, "micro_batches": 2}
    before = torch.get_rng_state()
    alone, together = (list(batches(crops, workers=workers, **common)) for workers in (0, 2))
    assert torch.equal(before, torch.get_rng_state())
    for expected, batch in zip(alone, together, strict=True):
        assert all(map(torch.equal, expected.waveforms, batch.waveforms))
        assert expected.skipped == batch.skipped
    assert any(batch.skipped for batch in alone)


@pytest.mark.slow
def test_workers_compute_with_one_thread_and_their_errors_name_the_cause(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    stream = batches(Numbers(), first_step=499, steps=501, batch_size=2, workers=1)
    assert next(stream).waveforms[0][:, 0, 1].tolist() == [1, 1]
    with pytest.raises(NoAudioError, match=r"^crop 1000 cannot be read$"):
        next(stream)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 1])
def test_page_locked_batches_are_the_same(crops, workers):
    common = {"first_step": 0, "steps": 3, "batch_size": 4, "micro_batches": 2}
    expected, pinned = (list(batches(crops, workers=workers, pin_memory=pin, **common)) for pin in (False, True))
    assert all(waveform.is_pinned() for batch in pinned for waveform in batch.waveforms)
    for one, other in zip(expected, pinned, strict=True):
        assert all(map(torch.equal, one.waveforms, other.waveforms))
        assert one.skipped == other.skipped


@pytest.mark.parametrize("batch_size", [6, 0, 2])
def test_a_batch_that_cannot_be_divided_is_refused(crops, batch_size):
    with pytest.raises(ValueError, match=rf"batch_size must be .* 2 processes times 2 micro-batches; got {batch_size}"):
        batches(crops, first_step=0, steps=1, batch_size=batch_size, micro_batches=2, world_size=2)


def test_a_skipped_file_is_named_once_and_counted():
    skip_list = SkipList()
    assert skip_list.add([("a.wav", "is empty"), ("b.wav", "is short"), ("a.wav", "is empty")]) == [
        "a.wav: is empty",
        "b.wav: is short",
    ]
    assert skip_list.add([("b.wav", "is short")]) == []
    assert len(skip_list) == 2
    resumed = SkipList(json.loads(json.dumps(skip_list.files)))
    assert resumed.add([("a.wav", "is empty"), ("c.wav", "is gone")]) == ["c.wav: is gone"]
    assert resumed.files == [("a.wav", "is empty"), ("b.wav", "is short"), ("c.wav", "is gone")]
