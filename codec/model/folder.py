"""What the folder of a model holds, as far as it can be told without torch: config.json and entropy tables.

What is written is coded with the tables in entropy.safetensors. Tables that were there before stay in
entropy-<fingerprint>.safetensors, for the files that were coded with them.
"""

import json
import re
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
# With 16 hexadecimal digits in it; for glob, and for the hub.
EARLIER_TABLES = f"entropy-{'[0-9a-f]' * 16}.safetensors"
# Of a repository of the Hugging Face hub, OWNER/NAME.
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
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


def tables_files(folder: Path) -> list[Path]:
    """The files with entropy tables of a model, first those that are used to write, if there are such."""
    current = folder / ENTROPY_FILE
    return [current] * current.exists() + sorted(folder.glob(EARLIER_TABLES))


def earlier_tables_file(fingerprint: str) -> str:
    """Name of the file in which tables stay that are no longer used to write."""
    return f"entropy-{fingerprint}.safetensors"


def tables_remedy(path: Path) -> str:
    """What to do about a file with entropy tables that cannot be used."""
    if path.name == ENTROPY_FILE:
        return "remove it; codec train-entropy makes another"
    return "replace it by an intact copy; or remove it, and with it the means to decode files that name it"


def load_tables(path: Path) -> StoredTables:
    """Read a file with entropy tables.

    Raises:
        ValueError: It cannot be read; or it has no tables that codes can be coded with, or not those of its name.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            # Before they are read: numpy lacks some types.
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no dict)
            if others := {name: kind for name, kind in kinds.items() if kind != "U16"}:
                name, kind = min(others.items())
                raise ValueError(f"{path}: {name!r} must be of type U16; got {kind}: {tables_remedy(path)}")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            belongs_to = (file.metadata() or {}).get(ENTROPY_KEY)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a safetensors file that can be read: {error}") from None
    try:
        tables = EntropyTables.from_arrays(arrays)
        if path.name not in (ENTROPY_FILE, earlier_tables_file(tables.fingerprint)):
            raise ValueError(f"tables must be those of the file's name; got {tables.fingerprint}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {tables_remedy(path)}") from None
    return StoredTables(tables, belongs_to)


def tables_bytes(tables: EntropyTables, fingerprint: str) -> bytes:
    """The contents of a file with entropy tables.

    Args:
        tables: To be stored.
        fingerprint: Of the codec whose codes they were learned from.
    """
    return safetensors.numpy.save(dict(tables.to_arrays()), metadata={ENTROPY_KEY: fingerprint})
