"""Tokenized corpora on disk: Parquet shards with the codes, memory-mapped token files, and sums of all of them."""

from typing import TYPE_CHECKING

from codec.lazy import import_from

if TYPE_CHECKING:
    from codec.shards.check import verify
    from codec.shards.codes_files import CodesFiles
    from codec.shards.manifest import Manifest, finish, load_manifest
    from codec.shards.record import BadClip, ShardRecord
    from codec.shards.schema import CodecFacts, Row
    from codec.shards.token_files import TokenFiles, write_tokens
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

# Whoever hands tasks to a cluster, and the workers it starts there, do without torch until they need it.
__getattr__ = import_from(
    __name__,
    {
        "BadClip": "codec.shards.record",
        "CodecFacts": "codec.shards.schema",
        "CodesFiles": "codec.shards.codes_files",
        "Manifest": "codec.shards.manifest",
        "Row": "codec.shards.schema",
        "ShardRecord": "codec.shards.record",
        "TokenFiles": "codec.shards.token_files",
        "finish": "codec.shards.manifest",
        "load_manifest": "codec.shards.manifest",
        "verify": "codec.shards.check",
        "write_shard": "codec.shards.write",
        "write_tokens": "codec.shards.token_files",
    },
)
