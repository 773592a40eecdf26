import numpy as np
import pytest

from codec.bitstream import Chunk
from codec.transcode.part import Part, cut_chunks, find_part, join_chunks


def chunk(first_frame, num_frames, *, lost=False):
    frames = np.arange(first_frame, first_frame + num_frames)
    return Chunk(first_frame, num_frames, None if lost else frames[None, None], "damaged" if lost else None)


def shape(chunks):
    return [(each.first_frame, each.num_frames, each.codes is None) for each in chunks]


class TestFindPart:
    """Frames of 320 samples at 16 kHz; the decoder remembers 4 of them, the resampler 128 samples of the lower rate."""

    @pytest.fixture(autouse=True)
    def _pre_roll(self, codec):
        assert codec.pre_roll == 4  # one block of 7 transform frames, two of which are a code frame, and the overlap

    def test_at_the_rate_of_the_model_only_the_decoder_needs_frames_before(self, codec):
        # Sample 160,000 is the first of frame 500.
        assert find_part(codec, 16_000, 10.0, 1.0, 320_000) == Part(160_000, 16_000, 496, 550, 4 * 320)

    def test_at_another_rate_decoding_begins_where_samples_lie_at_the_same_time(self, codec):
        # 22,050 is 441 / 320 of 16,000, so every frame begins with a sample of both: 128 samples of the model's rate
        # are a frame before sample 160,000, and four more are the decoder's.
        assert find_part(codec, 22_050, 10.0, 1.0, 441_000) == Part(220_500, 22_050, 495, 551, 5 * 441)
        # 11,025 is 441 / 640: every second frame does.
        part = find_part(codec, 11_025, 10.0, None, 220_500)
        assert (part.first_frame % 2, part.skipped) == (0, (500 - part.first_frame) * 441 // 2)

    def test_at_the_start_there_is_nothing_before(self, codec):
        assert find_part(codec, 44_100, 0.0, None, 1_000) == Part(0, 1_000, 0, None, 0)

    def test_what_is_not_known_stays_open(self, codec):
        assert find_part(codec, 16_000, 1.0, None, None) == Part(16_000, None, 46, None, 4 * 320)


def test_frames_outside_of_the_part_are_cut_off_and_nothing_after_it_is_read():
    def chunks():
        yield chunk(0, 10)
        yield chunk(10, 10, lost=True)
        yield chunk(20, 10)
        raise AssertionError("must not be read")

    cut = list(cut_chunks(chunks(), Part(0, 1, first_frame=5, last_frame=22, skipped=0)))
    assert shape(cut) == [(5, 5, False), (10, 10, True), (20, 2, False)]
    assert cut[0].codes.tolist() == [[[5, 6, 7, 8, 9]]]


def test_chunks_are_joined_up_to_a_size_and_to_a_gap():
    chunks = [chunk(0, 10), chunk(10, 10), chunk(20, 10), chunk(30, 10, lost=True), chunk(40, 5)]
    joined = list(join_chunks(chunks, 20))
    assert shape(joined) == [(0, 20, False), (20, 10, False), (30, 10, True), (40, 5, False)]
    assert joined[0].codes.tolist() == [[list(range(20))]]
