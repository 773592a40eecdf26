"""Tokenized corpora on disk: Parquet shards with the codes, memory-mapped token files, and sums of all of them."""

from codec.shards.codes_files import CodesFiles
from codec.shards.manifest import Manifest, finish, load_manifest
from codec.shards.record import BadClip, ShardRecord
from codec.shards.schema import CodecFacts, Row
from codec.shards.token_files import TokenFiles, write_tokens
from codec.shards.verify import verify
from codec.shards.write import write_shard

__all__ = [
    "BadClip",
    "CodecFacts",
    "CodesFiles",
    "Manifest",
    "Row",
    "ShardRecord",
    "TokenFiles",
    "finish",
    "load_manifest",
    "verify",
    "write_shard",
    "write_tokens",
]
