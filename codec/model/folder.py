"""What the folder of a model holds, as far as it can be told without torch: config.json and entropy.safetensors."""

import json
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import safetensors.numpy
from safetensors import SafetensorError, safe_open

from codec.bitstream.entropy import EntropyTables
from codec.model.config import CodecConfig
from codec.settings import settings_from

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ENTROPY_FILE = "entropy.safetensors"
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, ENTROPY_FILE)
# In the metadata of the entropy tables: the fingerprint of the weights whose codes they were learned from.
ENTROPY_KEY = "weights"


class StoredTables(NamedTuple):
    """Entropy tables as they lie in a folder.

    Attributes:
        tables: For the codes of one model.
        belongs_to: Fingerprint of the weights whose codes they were learned from; None if the file does not say.
    """

    tables: EntropyTables
    belongs_to: str | None


def shipped_models() -> dict[str, Path]:
    """The models in the package: names and folders."""
    pretrained = Path(str(files("codec"))) / "pretrained"
    return {path.parent.name: path.parent for path in sorted(pretrained.glob(f"*/{CONFIG_FILE}"))}


def load_config(folder: Path) -> CodecConfig:
    """Read the settings of a model.

    Raises:
        ValueError: They cannot be read, or are none of a codec.
    """
    path = folder / CONFIG_FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table, dict):
            raise ValueError(f"settings must be a JSON object; got {type(table).__name__}")
        return settings_from(table, CodecConfig)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load_tables(folder: Path) -> StoredTables | None:
    """Read the entropy tables of a model; None if it has none.

    Raises:
        ValueError: They cannot be read, or are none that codes can be coded with.
    """
    path = folder / ENTROPY_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            belongs_to = (file.metadata() or {}).get(ENTROPY_KEY)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a safetensors file that can be read: {error}") from None
    try:
        return StoredTables(EntropyTables.from_arrays(arrays), belongs_to)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: remove it; codec train-entropy makes another") from None


def tables_bytes(tables: EntropyTables, fingerprint: str) -> bytes:
    """The contents of entropy.safetensors.

    Args:
        tables: What `Codec.entropy` shall be.
        fingerprint: Of the codec whose codes they were learned from.
    """
    return safetensors.numpy.save(dict(tables.to_arrays()), metadata={ENTROPY_KEY: fingerprint})
