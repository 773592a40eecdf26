"""All recordings of a corpus, in whichever of the common forms it comes."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from codec.audio import AUDIO_SUFFIXES, AudioFileError
from codec.corpora.arrow import Rows, list_dataset, list_parquet
from codec.corpora.fields import printable, to_text
from codec.corpora.folder import is_audio, list_folder, walk
from codec.corpora.manifest import PARSERS, read_manifest
from codec.corpora.place import DatasetRow, File, ParquetRow, Place, Unreadable
from codec.corpora.recording import Recording
from codec.corpora.webdataset import list_archive

# What `save_to_disk` puts into the folder of a data set, and into that of a data set with splits.
DATASET_FILES = ("dataset_info.json", "state.json")
SPLITS_FILE = "dataset_dict.json"


def find_recordings(inputs: Sequence[Path]) -> list[Recording]:
    """List the recordings of folders, manifests, tar shards and data sets; no audio is opened.

    Ids: of a file in a folder, its path from there without suffix; of a manifest, its column `id` or else the path; of
    a data set, its column `id`. Of a member of an archive and of a row without `id`, what holds it comes first:
    SHARD/KEY, SHARD/0.

    Damage to a shard or a table does not hide the others: it is a recording that raises when it is opened.

    Args:
        inputs: Each a folder of audio, a manifest (.tsv, .jsonl), a WebDataset shard (.tar) or a folder of them, or a
            Hugging Face data set with an audio column (a folder that `save_to_disk` wrote, a .parquet file, or a folder
            of them).

    Returns:
        Input by input, each in the order of its names; what one file lists, in its own order. The same everywhere.

    Raises:
        ValueError: An input is none of these or holds no recordings, or two recordings have the same id.
        OSError: An input cannot be read.
        ImportError: The packages of the extra `corpora` are missing.
    """
    if not inputs:
        raise ValueError("inputs must be one or more; got none")
    by_id: dict[str, Recording] = {}
    for source in inputs:
        found = list(_list_input(source))
        _check_some(found, source)
        for recording in found:
            other = by_id.setdefault(recording.id, recording)
            if other is not recording:
                raise ValueError(
                    f"ids must be unique; {other.source} and {recording.source} both have {recording.id!r}: a folder "
                    "above both, or a manifest with a column id, tells them apart"
                )
    return list(by_id.values())


def _check_some(found: Sequence[Recording], source: Path) -> None:
    problems = [f"; {one.source}: {one.place.problem}" for one in found if isinstance(one.place, Unreadable)]
    if len(problems) == len(found):
        raise ValueError(f"{source} must hold recordings; got none{''.join(problems[:1])}")


def _list_input(source: Path) -> Iterator[Recording]:
    if source.is_dir():
        return _list_folder(source)
    if source.suffix in PARSERS:
        return _list_manifest(source)
    if source.suffix in SHARDS:
        return SHARDS[source.suffix](source, source.stem)
    known = ", ".join(sorted([*PARSERS, *SHARDS]))
    raise ValueError(f"{source} must be a folder, or a file of {known}; it is neither")


def _list_folder(folder: Path) -> Iterator[Recording]:
    if (folder / SPLITS_FILE).is_file():
        for split in _splits(folder / SPLITS_FILE):
            yield from _list_dataset(folder / split, f"{_name(folder)}/{split}")
    elif all((folder / name).is_file() for name in DATASET_FILES):
        yield from _list_dataset(folder, _name(folder))
    else:
        yield from _list_files(folder, list(walk(folder)))


def _splits(path: Path) -> list[str]:
    try:
        return list(json.loads(path.read_bytes())["splits"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must be a JSON object that lists splits; it is not") from error


def _list_files(folder: Path, names: Sequence[str]) -> Iterator[Recording]:
    """Audio, or else shards, or else tables."""
    if any(is_audio(name) for name in names):
        yield from list_folder(folder, names)
        return
    for suffix, list_file in SHARDS.items():
        files = [name for name in names if os.path.splitext(name)[1] == suffix]
        for name in files:
            yield from list_file(folder / name, os.path.splitext(name)[0])
        if files:
            return
    known = ", ".join([*sorted(AUDIO_SUFFIXES), *SHARDS])
    raise ValueError(
        f"{folder} must be a folder with files of {known} in it or below, or a saved data set; it is neither"
    )


def _list_manifest(path: Path) -> Iterator[Recording]:
    for clip in read_manifest(path):
        below = clip.path.relative_to(path.parent) if clip.path.is_relative_to(path.parent) else clip.path
        stem = below.with_suffix("").as_posix().removeprefix("/")
        yield Recording(
            printable(clip.id or stem),
            printable(str(clip.path)),
            to_text(clip.speaker),
            to_text(clip.transcript),
            File(os.path.abspath(clip.path)),
        )


def _list_table(
    path: Path, stem: str, list_rows: Callable[[str, str], Rows], kind: Callable[[str, str, int], Place]
) -> Iterator[Recording]:
    name, place = printable(str(path)), os.path.abspath(path)
    try:
        column, rows = list_rows(place, name)
    except AudioFileError as error:
        yield Recording(printable(stem), name, None, None, Unreadable(str(error).removeprefix(f"{name}: ")))
        return
    for row in rows:
        number = row.number
        yield Recording(
            row.id or printable(f"{stem}/{number}"),
            f"{name}[{number}]",
            row.speaker,
            row.transcript,
            kind(place, column, number),
        )


_list_dataset = partial(_list_table, list_rows=list_dataset, kind=DatasetRow)
# Files that each hold many recordings.
SHARDS: dict[str, Callable[[Path, str], Iterator[Recording]]] = {
    ".tar": list_archive,
    ".parquet": partial(_list_table, list_rows=list_parquet, kind=ParquetRow),
}


def _name(folder: Path) -> str:
    return os.path.basename(os.path.abspath(folder))
