"""Where in a row of shards a clip is."""

import pytest

from codec.shards.place import Places


def test_clips_are_counted_through_all_shards_past_empty_ones() -> None:
    sizes = [0, 2, 0, 0, 3, 1, 0]
    places = Places(sizes)
    expected = [(shard, clip) for shard, size in enumerate(sizes) for clip in range(size)]
    assert len(places) == 6
    assert [places.find(index) for index in range(6)] == expected
    assert [places.find(index) for index in range(-6, 0)] == expected


@pytest.mark.parametrize("index", [-4, 3])
def test_a_clip_that_is_not_there_is_an_error(index: int) -> None:
    with pytest.raises(IndexError, match=f"clip must be from -3 to 2; got {index}"):
        Places([3]).find(index)
