"""The card of a tokenized corpus: what a dataset hub shows of it, and where `load_dataset` finds its shards."""

import math
from collections.abc import Iterator, Sequence

import torch

from codec.quantize.usage import perplexity
from codec.shards.record import Records
from codec.shards.schema import CodecFacts
from codec.tokens import CodecTokenizer
from codec.tokens.vocabulary import SPECIAL

CARD_FILE = "README.md"

_FRONT_MATTER = """\
---
configs:
- config_name: default
  data_files:
  - split: train
    path: shard-*.parquet
tags:
- audio
- audio-tokens
- neural-audio-codec
---
"""

_LOADING = """\
```python
from datasets import load_dataset
from codec.shards import CodesFiles, TokenFiles

rows = load_dataset("parquet", data_files="FOLDER/shard-*.parquet")["train"]  # or load_dataset("FOLDER")
codes = CodesFiles("FOLDER")[0]    # of the first clip: [num_quantizers, frames]
tokens = TokenFiles("FOLDER")[0]   # its token ids, memory-mapped; TokenFiles("FOLDER").tokenizer takes them back
```

`codes` of a row are in C order (stage after stage), and `shape` is [num_quantizers, frames].
"""


def card_of(facts: CodecFacts, records: Records, tokenizer: CodecTokenizer) -> str:
    """The text of the card, in Markdown with a head in YAML.

    Args:
        facts: Of the codec.
        records: Of all shards.
        tokenizer: What made tokens of the codes.
    """
    sections = [
        _FRONT_MATTER,
        f"# Audio as codes of `{facts.model}`\n",
        _table(["", ""], _overview(facts, records)),
        "## Use of the codes\n",
        _table(["stage", "perplexity", "bits per code"], _stages(facts, records)),
        "## Tokens\n",
        f"Pattern `{tokenizer.pattern}`, {tokenizer.width} {_plural('id', tokenizer.width)} a step, "
        f"{tokenizer.vocab_size} ids in all.\n",
        _table(["ids", "what they stand for"], _vocabulary(tokenizer)),
        "## Loading\n",
        _LOADING,
    ]
    return "\n".join(sections)


def _overview(facts: CodecFacts, records: Records) -> Iterator[tuple[str, str]]:
    shards = records.shards
    errors = sum(len(shard.errors) for shard in shards)
    yield "clips", f"{sum(shard.clips for shard in shards)}"
    yield "hours", f"{math.fsum(shard.seconds for shard in shards) / 3600:.3f}"
    yield "frames", f"{sum(shard.frames for shard in shards)}"
    yield "shards", f"{len(shards)}"
    yield "clips that could not be read", f"{errors}, listed in errors.jsonl" if errors else "none"
    yield "codec", f"`{facts.model}`, weights `{facts.fingerprint}`"
    yield "sample rate", f"{facts.sample_rate} Hz"
    yield "frame rate", f"{facts.frame_rate:g} Hz"
    yield "stages", f"{facts.num_quantizers} of {facts.codebook_size} codes"
    yield (
        "bitrate",
        f"{facts.bitrate:.0f} bit/s; {_entropy_rate(facts, records):.0f} bit/s by the entropy of each stage",
    )


def _stages(facts: CodecFacts, records: Records) -> Iterator[tuple[str, str, str]]:
    for stage, effective in enumerate(_perplexities(records)):
        yield f"{stage}", f"{effective:.1f} of {facts.codebook_size}", f"{math.log2(effective):.2f}"


def _vocabulary(tokenizer: CodecTokenizer) -> Iterator[tuple[str, str]]:
    vocabulary, size = tokenizer.vocabulary, tokenizer.codebook_size
    if tokenizer.shared:
        yield f"0 to {size - 1}", "codes of all stages"
    else:
        for stage in range(tokenizer.num_quantizers):
            first = vocabulary.offset(stage)
            yield f"{first} to {first + size - 1}", f"codes of stage {stage}"
    for name in (*SPECIAL, *tokenizer.extras):
        yield f"{vocabulary.id_of(name)}", f"`{name}`"


def _perplexities(records: Records) -> list[float]:
    return perplexity(torch.from_numpy(records.counts)).tolist()


def _entropy_rate(facts: CodecFacts, records: Records) -> float:
    return facts.frame_rate * sum(math.log2(effective) for effective in _perplexities(records))


def _table(headings: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
