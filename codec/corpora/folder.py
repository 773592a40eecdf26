"""Folders of audio files."""

import errno
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from codec.audio import AUDIO_SUFFIXES
from codec.corpora.fields import printable, to_text
from codec.corpora.place import File
from codec.corpora.recording import Recording

# LibriSpeech and those made like it (LibriTTS, MLS): SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac, in a split or not.
LIBRISPEECH = re.compile(r"(?:.*/)?(\d+)/(\d+)/\1[-_]\2[-_][\d_]+\.\w+")
TRANSCRIPTS = ".trans.txt"
# What marks the output of `codec tokenize`, and what is in it.
JOB_FILE = "job.json"
JOB_KEY = "plan_sha256"


def walk(folder: Path, below: str = "") -> Iterator[str]:
    """The files in a folder and all below it, as paths from there with "/", in the order of `sorted` paths.

    Links to folders are followed, unless what they lead to is listed anyway. Links that lead nowhere are listed as
    files are. What is in a folder that `codec tokenize` wrote is not: it may lie in the folder that it is made of.

    Raises:
        OSError: A folder cannot be read.
    """
    real = os.path.realpath(folder / below)
    return _walk(folder, below, real, {real})


def _walk(folder: Path, below: str, real: str, roots: set[str]) -> Iterator[str]:
    """See `walk`.

    Args:
        folder: See there.
        below: See there.
        real: Where that folder is without any links.
        roots: Folders that are listed whole, without links; those that links lead to are added.
    """
    # Names and kinds come from the folders themselves: no file is asked for anything.
    with os.scandir(folder / below) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    if any(entry.name == JOB_FILE and _is_job(entry.path) for entry in ordered):
        return
    for entry in ordered:
        if _is_broken(entry) or entry.is_file():
            yield f"{below}{entry.name}"
        elif entry.is_dir():
            linked = entry.is_symlink()
            inside = os.path.realpath(entry.path) if linked else os.path.join(real, entry.name)
            if roots.isdisjoint((inside, *map(str, Path(inside).parents)) if linked else (inside,)):
                roots.update([inside] if linked else [])
                yield from _walk(folder, f"{below}{entry.name}/", inside, roots)


def _is_broken(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link that leads nowhere, or to itself."""
    if not entry.is_symlink():
        return False
    try:
        entry.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return True
    return False


def _is_job(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            job = json.load(file)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(job, dict) and JOB_KEY in job


def list_folder(folder: Path, names: Sequence[str]) -> Iterator[Recording]:
    """List the audio files of a folder.

    The speaker is the first folder below it, in a layout like LibriSpeech's the folder above the chapter. Transcripts
    are those of files *.trans.txt next to the audio, each line of which is a name without suffix, a space and the text.

    Args:
        folder: Where they are. Sources begin with its name.
        names: What `walk` gave; files that are no audio are passed over.

    Raises:
        OSError: Transcripts cannot be read.
    """
    transcripts = defaultdict(list)
    for name in names:
        if name.endswith(TRANSCRIPTS):
            transcripts[os.path.dirname(name)].append(name)
    current, said = None, {}
    base, root = os.path.split(os.path.abspath(folder))
    audio = [name for name in names if is_audio(name)]
    for name, stem in zip(audio, without_suffixes(audio), strict=True):
        if (parent := os.path.dirname(name)) != current:
            current, said = parent, _read_transcripts([folder / file for file in transcripts[parent]])
        source = os.path.join(root, name)
        yield Recording(
            printable(stem),
            printable(source),
            to_text(_speaker(name)),
            to_text(said.get(os.path.splitext(os.path.basename(name))[0]) if said else None),
            File(os.path.join(base, source)),
        )


def is_audio(name: str) -> bool:
    """Whether a name is one of an audio file."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def without_suffixes(names: Sequence[str]) -> list[str]:
    """Names of files without their suffixes; those that differ in nothing else keep theirs."""
    stems = [os.path.splitext(name)[0] for name in names]
    if len(set(stems)) == len(stems):
        return stems
    counts = Counter(os.path.splitext(name)[0] for name in set(names))
    return [stem if counts[stem] == 1 else name for name, stem in zip(names, stems, strict=True)]


def _speaker(name: str) -> str:
    match = LIBRISPEECH.fullmatch(name)
    return match[1] if match else name.partition("/")[0] if "/" in name else ""


def _read_transcripts(paths: Sequence[Path]) -> dict[str, str]:
    lines = (line for path in paths for line in path.read_text("utf-8", "surrogateescape").splitlines())
    pairs = (line.partition(" ") for line in lines)
    return {name: text.strip() for name, _, text in pairs}
