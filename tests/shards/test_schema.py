"""What a schema says of the codec."""

from dataclasses import replace
from math import inf, nan

import pytest

from codec.shards import CodecFacts


def test_facts_come_back_from_the_metadata(facts: CodecFacts) -> None:
    metadata = facts.to_metadata()
    assert metadata["codec.fingerprint"] == "0123456789abcdef"
    assert CodecFacts.from_metadata({"pandas": "{}", **metadata}) == facts
    odd = replace(facts, frame_rate=44_100 / 588 / 3, model="3.0", beam_size=2)
    assert CodecFacts.from_metadata(odd.to_metadata()) == odd


def test_shards_of_before_the_search_was_told_had_the_nearest_codes(facts: CodecFacts) -> None:
    metadata = replace(facts, beam_size=2).to_metadata()
    del metadata["codec.beam_size"]
    assert CodecFacts.from_metadata(metadata) == facts


def test_the_bitrate_is_that_of_packed_codes(facts: CodecFacts) -> None:
    assert facts.bitrate == 12.5 * 2 * 3
    assert replace(facts, codebook_size=1024, num_quantizers=8, frame_rate=75.0).bitrate == 6000


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("sample_rate", "fast", "codec.sample_rate must be int; got 'fast'"),
        ("codebook_size", "65537", "codebook_size must be from 1 to 65536; got 65537"),
        ("frame_rate", "nan", "frame_rate must be positive; got nan"),
        ("format_version", "2", "format_version must be 1; got 2"),
        ("tempo", "1", "unknown setting codec.tempo"),
    ],
)
def test_malformed_metadata_is_refused(facts: CodecFacts, entry: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodecFacts.from_metadata({**facts.to_metadata(), f"codec.{entry}": value})


@pytest.mark.parametrize("entry", ["fingerprint", "num_quantizers"])
def test_a_lacking_entry_is_named(facts: CodecFacts, entry: str) -> None:
    metadata = facts.to_metadata()
    del metadata[f"codec.{entry}"]
    with pytest.raises(ValueError, match=f"setting codec.{entry} must be given"):
        CodecFacts.from_metadata(metadata)


@pytest.mark.parametrize("value", [0, -1, inf, nan])
@pytest.mark.parametrize("name", ["sample_rate", "frame_rate", "num_quantizers"])
def test_numbers_out_of_range_are_refused(facts: CodecFacts, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive; got"):
        replace(facts, **{name: value})
