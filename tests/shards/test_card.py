"""The card of a tokenized corpus."""

from pathlib import Path

import numpy as np
import yaml

from codec.shards import CodecFacts, ShardRecord
from codec.shards.card import card_of
from codec.shards.record import Records
from codec.tokens import CodecTokenizer

# Stage 0 has 2 codes equally often: a perplexity of 2. Stage 1 has 4.
RECORDS = Records(
    [ShardRecord(0, 3, 1800.0, 4, (), (), ()), ShardRecord(1, 1, 1800.0, 4, (), (), ())],
    np.array([[4, 4, 0, 0], [2, 2, 2, 2]]),
)
FACTS = CodecFacts("speech", "0123", 16_000, 50.0, 4, 2)


def test_it_tells_counts_hours_bitrate_and_perplexities() -> None:
    card = card_of(FACTS, RECORDS, CodecTokenizer(2, 4))
    for line in (
        "| clips | 4 |",
        "| hours | 1.000 |",
        "| frames | 8 |",
        "| clips that could not be read | none |",
        "| codec | `speech`, weights `0123` |",
        "| bitrate | 200 bit/s; 150 bit/s by the entropy of each stage |",
        "| 0 | 2.0 of 4 | 1.00 |",
        "| 1 | 4.0 of 4 | 2.00 |",
    ):
        assert f"\n{line}\n" in card


def test_it_tells_what_each_id_stands_for() -> None:
    card = card_of(FACTS, RECORDS, CodecTokenizer(2, 4, "delay", extras=["speaker"]))
    assert "Pattern `delay`, 2 ids a step, 13 ids in all." in card
    assert "| 4 to 7 | codes of stage 1 |\n| 8 | `pad` |\n" in card
    assert "| 12 | `speaker` |" in card
    shared = card_of(FACTS, RECORDS, CodecTokenizer(2, 4, shared=True))
    assert "| 0 to 3 | codes of all stages |\n| 4 | `pad` |\n" in shared
    assert "1 id a step, 8 ids in all" in shared


def test_its_head_says_where_the_shards_are(corpus: Path) -> None:
    card = (corpus / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    (config,) = head["configs"]
    (files,) = config["data_files"]
    assert [path.name for path in sorted(corpus.glob(files["path"]))] == [
        f"shard-0000{index}.parquet" for index in range(3)
    ]
    assert "| clips that could not be read | 1, listed in errors.jsonl |" in card


def test_no_codes_at_all_are_no_error() -> None:
    records = Records([ShardRecord(0, 0, 0.0, 0, (), (), ())], np.zeros((2, 4), dtype=np.int64))
    assert "| 0 | 1.0 of 4 | 0.00 |" in card_of(FACTS, records, CodecTokenizer(2, 4))
