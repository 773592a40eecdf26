"""LibriSpeech (Panayotov et al. 2015), from where it is published."""

import os
import shutil
import tarfile
from http.client import HTTPException
from pathlib import Path

from codec.choose import did_you_mean

SPLITS = (
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
)


def download_librispeech(root: str | Path, split: str) -> Path:
    """Make sure that a split is there.

    A copy that is there already is used as it is: nothing is downloaded or checked. A download that is interrupted
    leaves none; the archive, if it came that far, is used the next time.

    Args:
        root: Folder that holds, or shall hold, LibriSpeech/SPLIT; one that holds SPLIT itself will do, too.
        split: For example "train-clean-100".

    Returns:
        The split's folder.

    Raises:
        ValueError: There is no such split, or something other than FLAC files is in its place.
        OSError: It cannot be downloaded.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}{did_you_mean(split, SPLITS)}")
    folder = Path(root, "LibriSpeech", split)
    for copy in (folder, Path(root, split)):
        if next(copy.rglob("*.flac"), None):
            return copy
    if folder.exists() and os.listdir(folder):
        raise ValueError(f"{folder} must hold FLAC files, or nothing; got something else")
    _download(Path(root), split, folder)
    return folder


def _download(root: Path, split: str, folder: Path) -> None:
    # Beside its place, because torchaudio passes over files that are there when it unpacks: what an interrupted run
    # left would look like a copy, and stay as it is.
    unfinished = root / f".{split}.part"
    shutil.rmtree(unfinished / "LibriSpeech", ignore_errors=True)
    unfinished.mkdir(parents=True, exist_ok=True)
    _fetch(split, unfinished, root)
    folder.parent.mkdir(exist_ok=True)
    os.replace(unfinished / "LibriSpeech" / split, folder)
    shutil.rmtree(unfinished)


def _fetch(split: str, unfinished: Path, root: Path) -> None:
    from torchaudio.datasets import LIBRISPEECH

    try:
        LIBRISPEECH(unfinished, split, download=True)
    except (OSError, HTTPException, RuntimeError, EOFError, tarfile.TarError) as error:
        raise OSError(f"{split} of LibriSpeech cannot be downloaded to {root}: {error}") from error
