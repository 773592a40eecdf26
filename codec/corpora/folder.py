"""Folders of audio files."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from codec.audio import AUDIO_SUFFIXES
from codec.corpora.fields import printable, to_text
from codec.corpora.place import File
from codec.corpora.recording import Recording

# LibriSpeech and those made like it (LibriTTS, MLS): SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac, in a split or not.
LIBRISPEECH = re.compile(r"(?:.*/)?(\d+)/(\d+)/\1[-_]\2[-_][\d_]+\.\w+")
TRANSCRIPTS = ".trans.txt"


def walk(folder: Path, below: str = "") -> Iterator[str]:
    """The files in a folder and all below it, as paths from there with "/", in the order of `sorted` paths.

    Links to folders are not followed.

    Raises:
        OSError: A folder cannot be read.
    """
    # Names and kinds come from the folders themselves: no file is asked for anything.
    with os.scandir(folder / below) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir(follow_symlinks=False):
            yield from walk(folder, f"{below}{entry.name}/")
        elif entry.is_file():
            yield f"{below}{entry.name}"


def list_folder(folder: Path, names: Sequence[str]) -> Iterator[Recording]:
    """List the audio files of a folder.

    The speaker is the first folder below it, in a layout like LibriSpeech's the folder above the chapter. Transcripts
    are those of files *.trans.txt next to the audio, each line of which is a name without suffix, a space and the text.

    Args:
        folder: Where they are.
        names: What `walk` gave; files that are no audio are passed over.

    Raises:
        OSError: Transcripts cannot be read.
    """
    transcripts = defaultdict(list)
    for name in names:
        if name.endswith(TRANSCRIPTS):
            transcripts[os.path.dirname(name)].append(name)
    current, said = None, {}
    for name in names:
        if not is_audio(name):
            continue
        if (parent := os.path.dirname(name)) != current:
            current, said = parent, _read_transcripts([folder / file for file in transcripts[parent]])
        path = os.path.join(folder, name)
        stem = os.path.splitext(name)[0]
        yield Recording(
            printable(stem),
            printable(path),
            to_text(_speaker(name)),
            to_text(said.get(os.path.basename(stem))),
            File(os.path.abspath(path)),
        )


def is_audio(name: str) -> bool:
    """Whether a name is one of an audio file."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def _speaker(name: str) -> str:
    match = LIBRISPEECH.fullmatch(name)
    return match[1] if match else name.partition("/")[0] if "/" in name else ""


def _read_transcripts(paths: Sequence[Path]) -> dict[str, str]:
    lines = (line for path in paths for line in path.read_text("utf-8", "surrogateescape").splitlines())
    pairs = (line.partition(" ") for line in lines)
    return {name: text.strip() for name, _, text in pairs}
