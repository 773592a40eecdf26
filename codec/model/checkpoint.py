"""Codecs on disk: config.json, model.safetensors and, if there are, entropy tables. No pickle."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from codec.choose import did_you_mean
from codec.model.build import build_codec
from codec.model.codec import Codec
from codec.model.folder import (
    CONFIG_FILE,
    EARLIER_TABLES,
    ENTROPY_FILE,
    HUB_NAME,
    MODEL_FILES,
    WEIGHTS_FILE,
    StoredTables,
    earlier_tables_file,
    load_config,
    load_tables,
    shipped_models,
    tables_bytes,
    tables_files,
    tables_remedy,
)
from codec.whole import write_whole

# Entries of the state dict that no decoder reads. An encoder that weighs bits reads the usage, but what it chooses by
# that decodes as anything else does.
_TRAINING_ONLY = re.compile(r"\.(usage|steps|temperature|optimizer\.state\.\w+)$")


def save_pretrained(codec: Codec, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a codec's settings, weights and all entropy tables into a folder, which is made if need be.

    Args:
        codec: What to save.
        folder: Where.
        dtype: Of the weights on disk: half precision halves the file. The loaded codec has the rounded weights, and
            their fingerprint.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in codec.state_dict().items()
    }
    config = json.dumps(asdict(codec.config), indent=2) + "\n"
    # As `load_weights` will have them.
    state = codec.state_dict()
    belongs_to = _fingerprint({name: tensor.to(state[name].dtype) for name, tensor in weights.items()})
    # Tables of other weights would be refused, so that none are there while the weights change. Those of the same
    # weights stay for the files that name them.
    for path in tables_files(folder):
        if (name := _earlier_name(path, belongs_to)) is None:
            path.unlink()
        else:
            path.replace(folder / name)
    write_whole(folder / CONFIG_FILE, config.encode())
    write_whole(folder / WEIGHTS_FILE, save(weights, metadata={"format": "pt"}))
    for tables in codec.earlier_entropy:
        write_whole(folder / earlier_tables_file(tables.fingerprint), tables_bytes(tables, belongs_to))
    if codec.entropy is not None:
        write_whole(folder / ENTROPY_FILE, tables_bytes(codec.entropy, belongs_to))
        (folder / earlier_tables_file(codec.entropy.fingerprint)).unlink(missing_ok=True)


def from_pretrained(name_or_folder: str | Path) -> Codec:
    """Load a codec, in eval mode and float32.

    Args:
        name_or_folder: Name of a shipped model, a folder that `save_pretrained` wrote, or a repository OWNER/NAME of
            the Hugging Face hub that holds the files of such a folder.

    Raises:
        ValueError: There is no such model or folder; or its settings or weights do not fit, with those that do not; or
            its entropy tables are damaged, or belong to other weights.
    """
    folder = _find(name_or_folder)
    codec = build_codec(load_config(folder))
    load_weights(codec, _load_tensors(folder / WEIGHTS_FILE))
    for path in tables_files(folder):
        stored = load_tables(path)
        _check_tables(stored, path, codec)
        if path.name == ENTROPY_FILE:
            codec.entropy = stored.tables
        else:
            codec.earlier_entropy.append(stored.tables)
    return codec.eval()


def load_weights(codec: Codec, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a codec, once all names and shapes are seen to fit.

    Raises:
        ValueError: A name is missing or unknown, or a shape or kind is another; the message lists the first few.
    """
    expected = codec.state_dict()
    misfits = [f"missing {name}" for name in expected if name not in weights]
    misfits += [f"unknown {name}" for name in weights if name not in expected]
    misfits += [
        f"{name} must have shape {list(expected[name].shape)}; got {list(tensor.shape)}"
        for name, tensor in weights.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    misfits += [
        f"{name} must be of type {expected[name].dtype}; got {tensor.dtype}"
        for name, tensor in weights.items()
        if name in expected and tensor.is_floating_point() != expected[name].is_floating_point()
    ]
    if misfits:
        more = f" and {len(misfits) - 5} more" if len(misfits) > 5 else ""
        raise ValueError(f"weights do not fit the model: {'; '.join(misfits[:5])}{more}")
    codec.load_state_dict(weights)


def fingerprint(codec: Codec) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over encoder, code vectors and decoder: names, shapes and values."""
    return _fingerprint(codec.state_dict())


def _fingerprint(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if _TRAINING_ONLY.search(name):
            continue
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _find(name_or_folder: str | Path) -> Path:
    shipped = shipped_models()
    name = str(name_or_folder)
    if name in shipped:
        return shipped[name]
    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    if HUB_NAME.fullmatch(name):
        return _download(name)
    raise ValueError(
        f"model must be a folder, a repository OWNER/NAME of the Hugging Face hub, or one of "
        f"{', '.join(shipped) or '(none shipped)'}; got '{name}'{did_you_mean(name, shipped)}"
    )


def _download(repository: str) -> Path:
    # Imported here: it is slow, and a shipped model does without.
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=[*MODEL_FILES, EARLIER_TABLES]))
    # Its errors have no base of their own: among them are OSError and ValueError, and those of the HTTP library.
    except Exception as error:
        summary = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"model must be a folder that exists, a shipped model or a repository of the Hugging Face hub; "
            f"got '{repository}', and the hub says: {summary}"
        ) from error


def _earlier_name(path: Path, fingerprint: str) -> str | None:
    """Name under which a file with tables stays; None if they cannot be read, or are of other weights."""
    try:
        stored = load_tables(path)
    except ValueError:
        return None
    return earlier_tables_file(stored.tables.fingerprint) if stored.belongs_to == fingerprint else None


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a safetensors file that can be read: {error}") from None


def _check_tables(stored: StoredTables, path: Path, codec: Codec) -> None:
    remedy = tables_remedy(path)
    if stored.belongs_to != (own := fingerprint(codec)):
        raise ValueError(f"{path}: must belong to the weights {own} beside it; got {stored.belongs_to}: {remedy}")
    shape, expected = stored.tables.ranks.shape, (codec.num_quantizers, codec.codebook_size)
    if shape != expected:
        raise ValueError(f"{path}: must be for {expected} stages and codes; got {shape}: {remedy}")
