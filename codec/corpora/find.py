"""All recordings of a corpus, in whichever of the common forms it comes."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from codec.audio import AUDIO_SUFFIXES, AudioFileError
from codec.corpora.arrow import Rows, list_dataset, list_parquet, list_paths
from codec.corpora.fields import printable, to_text
from codec.corpora.folder import list_folder, walk, without_suffixes
from codec.corpora.manifest import PARSERS, read_manifest
from codec.corpora.place import DatasetRow, File, ParquetRow, Place, Unreadable
from codec.corpora.recording import Recording
from codec.corpora.webdataset import list_archive

# What `save_to_disk` puts into the folder of a data set, and into that of a data set with splits.
DATASET_FILES = ("dataset_info.json", "state.json")
SPLITS_FILE = "dataset_dict.json"


def find_recordings(inputs: Sequence[Path]) -> list[Recording]:
    """List the recordings of folders, manifests, tar shards and data sets; no audio is opened.

    Ids: of a file in a folder, its path from there without suffix (with it, where another file has the same); of a
    manifest, its column `id` or else the path. Of a member of an archive and of a row, what holds it comes first:
    SHARD/KEY, TABLE/ID, or TABLE/0 by number where the table has no column `id` that tells all of its rows apart.

    Ids and sources do not depend on how the inputs are written, relative or absolute, nor on where they lie.

    Damage to a shard or a table does not hide the others: it is a recording that raises when it is opened.

    Args:
        inputs: Each a folder of audio, a manifest (.tsv, .jsonl), a WebDataset shard (.tar) or a folder of them, or a
            Hugging Face data set with an audio column (a folder that `save_to_disk` wrote, a .parquet file, or a folder
            of them, which may hold the audio as well). A manifest need not say how long the clips are.

    Returns:
        Input by input, each in the order of its names; what one file lists, in its own order. The same everywhere.

    Raises:
        ValueError: An input is none of these, or several, or holds no recordings, or two recordings have the same id.
        OSError: An input cannot be read.
        ImportError: The packages of the extra `corpora` are missing.
    """
    if not inputs:
        raise ValueError("inputs must be one or more; got none")
    paths = [Path(os.path.abspath(source)) for source in inputs]
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise ValueError(f"inputs must be given once; got {twice[0]} several times")
    listed = [(path, list(_list_input(path))) for path in paths]
    _check_some(listed)
    _check_ids(listed)
    return list(chain.from_iterable(found for _, found in listed))


def _check_some(listed: Sequence[tuple[Path, Sequence[Recording]]]) -> None:
    for source, found in listed:
        problems = [f"; {one.source}: {one.place.problem}" for one in found if isinstance(one.place, Unreadable)]
        # One damaged shard of many is among their bad recordings, also where each is an input.
        if not found or (len(problems) == len(found) and len(listed) == 1):
            raise ValueError(f"{source} must hold recordings; got none{''.join(problems[:1])}")


def _check_ids(listed: Sequence[tuple[Path, Sequence[Recording]]]) -> None:
    by_id: dict[str, Recording] = {}
    for source, found in listed:
        for one in found:
            other = by_id.setdefault(one.id, one)
            if other is not one:
                first = next(source for source, found in listed if any(each is other for each in found))
                where = ["", ""] if first == source else [f" (of {first})", f" (of {source})"]
                raise ValueError(
                    f"ids must be unique; {other.source}{where[0]} and {one.source}{where[1]} both have {one.id!r}: "
                    f"{_remedy(first, source, other.place, one.place)}"
                )


def _remedy(first: Path, second: Path, *places: Place) -> str:
    """How two recordings of the same id, and the inputs that they are of, can be told apart."""
    manifests = [source.name for source in (first, second) if source.suffix in PARSERS and not source.is_dir()]
    if manifests:
        return f"a column id in {manifests[0]} tells them apart"
    if first == second or len({type(place) for place in places}) > 1 or isinstance(places[0], DatasetRow):
        return "rename one of them"
    return "a folder above both, given in place of them, tells them apart"


def _list_input(source: Path) -> Iterator[Recording]:
    if source.is_dir():
        return _list_folder(source)
    if source.suffix in PARSERS:
        return _list_manifest(source)
    if source.suffix.lower() in SHARDS:
        source.stat()  # what was named must be there
        return SHARDS[source.suffix.lower()](source, source.stem, source.name)
    known = ", ".join(sorted([*PARSERS, *SHARDS]))
    raise ValueError(f"{source} must be a folder, or a file of {known}; it is neither")


def _list_folder(folder: Path) -> Iterator[Recording]:
    if (folder / SPLITS_FILE).is_file():
        for split in _splits(folder / SPLITS_FILE):
            yield from _list_dataset(folder / split, f"{folder.name}/{split}", f"{folder.name}/{split}")
    elif all((folder / name).is_file() for name in DATASET_FILES):
        yield from _list_dataset(folder, folder.name, folder.name)
    else:
        yield from _list_files(folder, list(walk(folder)))


def _splits(path: Path) -> list[str]:
    try:
        return list(json.loads(path.read_bytes())["splits"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} must be a JSON object that lists splits; it is not") from error


def _list_files(folder: Path, names: Sequence[str]) -> Iterator[Recording]:
    kinds = _by_kind(folder, names)
    if not kinds:
        known = ", ".join([*sorted(AUDIO_SUFFIXES), *SHARDS])
        raise ValueError(
            f"{folder} must be a folder with files of {known} in it or below, or a saved data set; it is neither"
        )
    if len(kinds) > 1:
        held = " and ".join(f"{kind} ({files[0]})" for kind, files in sorted(kinds.items()))
        raise ValueError(f"{folder} must hold recordings of one kind; it holds {held}: give the one that you mean")
    ((kind, files),) = kinds.items()
    if kind == AUDIO:
        yield from list_folder(folder, names)
        return
    for name, stem in zip(files, without_suffixes(files), strict=True):
        try:
            yield from SHARDS[kind](folder / name, stem, f"{folder.name}/{name}")
        except OSError as error:
            problem = Unreadable(error.strerror or str(error))
            yield Recording(printable(stem), printable(f"{folder.name}/{name}"), None, None, problem)


def _by_kind(folder: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """The files that hold recordings: audio, and shards by their suffix; not what others among them tell of."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in names:
        suffix = os.path.splitext(name)[1].lower()
        if suffix in AUDIO_SUFFIXES:
            kinds[AUDIO].append(name)
        elif suffix in SHARDS:
            kinds[suffix].append(name)
    if len(kinds) > 1 and TABLE in kinds:
        # Tables may hold what is known of the audio beside them, and where that is, or no audio at all.
        paths = {name: _listed_paths(folder, name) for name in kinds.pop(TABLE)}
        if tables := [name for name in paths if paths[name] is not None]:
            kinds[TABLE] = tables
        listed = set(chain.from_iterable(of_one or () for of_one in paths.values()))
        unlisted = [name for name in kinds.pop(AUDIO, ()) if name not in listed]
        if unlisted:
            kinds[AUDIO] = unlisted
    return kinds


def _listed_paths(folder: Path, name: str) -> set[str] | None:
    """The paths in the audio column of a table, from the folder; None: it has no such column."""
    try:
        paths = list_paths(str(folder / name), name)
    except AudioFileError:
        return set()  # whatever it was
    if paths is None:
        return None
    beside = os.path.dirname(name)
    return {os.path.relpath(folder / beside / path, folder) for path in paths}


def _list_manifest(path: Path) -> Iterator[Recording]:
    clips = read_manifest(path, timed=False)
    inside = os.path.join(path.parent, "")
    names = [str(clip.path).removeprefix(inside) for clip in clips]
    for clip, name, stem in zip(clips, names, without_suffixes(names), strict=True):
        yield Recording(
            printable(clip.id or stem.removeprefix("/")),
            printable(os.path.join(path.parent.name, name)),
            to_text(clip.speaker),
            to_text(clip.transcript),
            File(os.path.abspath(clip.path)),
        )


def _list_table(
    path: Path,
    stem: str,
    source: str,
    list_rows: Callable[[str, str], Rows],
    kind: Callable[[str, str, int], Place],
) -> Iterator[Recording]:
    stem, name = printable(stem), printable(source)
    try:
        column, rows = list_rows(str(path), name)
    except AudioFileError as error:
        yield Recording(stem, name, None, None, Unreadable(str(error).removeprefix(f"{name}: ")))
        return
    for number, id, speaker, transcript in rows:
        place = kind(str(path), column, number)
        yield Recording(f"{stem}/{number if id is None else id}", f"{name}[{number}]", speaker, transcript, place)


_list_dataset = partial(_list_table, list_rows=list_dataset, kind=DatasetRow)
AUDIO = "audio"
TABLE = ".parquet"
# Files that each hold many recordings.
SHARDS: dict[str, Callable[[Path, str, str], Iterator[Recording]]] = {
    ".tar": list_archive,
    TABLE: partial(_list_table, list_rows=list_parquet, kind=ParquetRow),
}
