"""Which files in a folder are audio."""

from pathlib import Path

AUDIO_SUFFIXES = {".aif", ".aiff", ".flac", ".mp3", ".ogg", ".opus", ".wav"}


def find_audio(folder: Path) -> list[Path]:
    """List the audio files in a folder and all below it, sorted.

    Raises:
        ValueError: There is no such folder, or no audio in it.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    if not paths:
        suffixes = ", ".join(sorted(AUDIO_SUFFIXES))
        raise ValueError(f"{folder.absolute()} must be a folder with audio files ({suffixes}) in it or below; got none")
    return paths
