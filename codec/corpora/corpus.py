"""Where clips come from: a folder of audio files, or a manifest."""

from pathlib import Path
from typing import NamedTuple

from codec.audio import AudioFileError, find_audio, read_info
from codec.corpora.clip import Clip
from codec.corpora.manifest import PARSERS, read_manifest


class Corpus(NamedTuple):
    """What was found.

    Attributes:
        clips: Those that can be trained on.
        skipped: Those that cannot: the path of each, and why.
    """

    clips: list[Clip]
    skipped: dict[str, str]


def find_clips(source: Path, min_seconds: float = 0.5) -> Corpus:
    """List the clips of a folder, or of a manifest.

    Of a folder, the headers of all audio files in it and below are read, whatever their rates and channel counts. The
    first folder below it is the speaker, as in a split of LibriSpeech, SPLIT/SPEAKER/CHAPTER/*.flac. Of a manifest, no
    file is opened: what cannot be read turns up in training, and is skipped there.

    Args:
        source: A folder, or a manifest (.tsv or .jsonl, see `codec.corpora.manifest`).
        min_seconds: Shorter clips are skipped.

    Returns:
        In the order of the paths, so that it is the same on every machine, or of the manifest.

    Raises:
        ValueError: There are no clips, or none to train on, or a line of the manifest is not what it must be.
        OSError: The manifest cannot be read.
    """
    listed = Corpus(read_manifest(source), {}) if _is_manifest(source) else _describe_folder(source)
    clips = [clip for clip in listed.clips if clip.seconds >= min_seconds]
    short = {str(clip.path): _too_short(clip, min_seconds) for clip in listed.clips if clip.seconds < min_seconds}
    skipped = {**listed.skipped, **short}
    if not clips:
        first = next((f", the first {path}: {reason}" for path, reason in skipped.items()), "")
        raise ValueError(
            f"{source.absolute()} must list audio of at least {min_seconds:g} s; skipped {len(skipped)} files{first}"
        )
    return Corpus(clips, skipped)


def _is_manifest(source: Path) -> bool:
    return source.suffix in PARSERS and not source.is_dir()


def _describe_folder(folder: Path) -> Corpus:
    clips = []
    skipped = {}
    for path in find_audio(folder):
        try:
            clips.append(Clip(path, read_info(path).seconds, _speaker(path, folder)))
        except AudioFileError as error:
            skipped[str(path)] = str(error).removeprefix(f"{path}: ")
    return Corpus(clips, skipped)


def _speaker(path: Path, folder: Path) -> str:
    below = path.relative_to(folder).parts
    return below[0] if len(below) > 1 else ""


def _too_short(clip: Clip, min_seconds: float) -> str:
    return f"lasts {clip.seconds:.3g} s, less than {min_seconds:g} s"
