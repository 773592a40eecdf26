"""Corpora in the forms that people keep them in, made of real speech."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest


@pytest.fixture
def write_tar(tmp_path: Path) -> Callable[[str, list[tuple[str, bytes]]], Path]:
    """Write an archive: its name, then names and contents of its members."""

    def write_tar(name: str, members: list[tuple[str, bytes]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path

    return write_tar


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The package of Hugging Face, which asks nobody on the network and keeps nothing at home."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("huggingface"))
    import datasets

    return datasets


@pytest.fixture
def make_dataset(datasets: ModuleType) -> Callable[..., Any]:
    """Make a data set of audio files, each as its bytes or as its path, and of further columns."""

    def make_dataset(audio: list[bytes | str | None], column: str = "audio", **columns: list[Any]) -> Any:
        cells = [{"bytes": one, "path": None} if isinstance(one, bytes) else one and {"path": one} for one in audio]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        table = pa.table({column: pa.array(cells, kind), **columns})
        return datasets.Dataset(table).cast_column(column, datasets.Audio())

    return make_dataset
