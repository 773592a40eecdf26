"""WebDataset shards: tar archives of key.flac with key.txt and key.json next to it."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tarfile import BLOCKSIZE, TarError, TarFile, TarInfo
from typing import NamedTuple

from codec.corpora.fields import find_name, printable, to_text
from codec.corpora.folder import is_audio, without_suffixes
from codec.corpora.place import ArchiveMember, Unreadable
from codec.corpora.recording import Recording

log = logging.getLogger("codec")

# Of text about one recording; what says more is none.
MAX_TEXT_BYTES = 1 << 20


class _Told(NamedTuple):
    """What a member tells of the recordings of its key, or what is wrong with it."""

    speaker: str | None = None
    transcript: str | None = None
    problem: str | None = None


def list_archive(path: Path, stem: str, source: str | None = None) -> Iterator[Recording]:
    """List the recordings of a shard by the headers of its members; it is not unpacked.

    Members that have the same name up to its first dot belong together, wherever they stand. A transcript is the text
    of .txt, or else what .json calls transcript or text; a speaker is what .json calls so. What is wrong with such a
    member costs no audio: it is left out, and a warning tells so. Damage to the archive does not hide the recordings
    before it; for each damage there is an unreadable recording.

    Args:
        path: An uncompressed tar archive.
        stem: What the ids begin with: STEM/KEY.
        source: What the archive is called. Default: its name.

    Returns:
        In the order of the archive.

    Raises:
        OSError: The archive cannot be read.
    """
    shown = printable(path.name if source is None else source)
    place = os.path.abspath(path)
    audio: dict[str, ArchiveMember] = {}
    told: dict[str, _Told] = {}
    problems: list[str] = []
    try:
        # Not compressed: of a compressed archive no member could be read without all that is before it.
        with TarFile.open(path, "r:") as archive:
            for member in _members(archive, problems):
                name = member.name.removeprefix("./")
                # Of members of one name the last one counts, as it does in unpacking.
                if is_audio(name):
                    audio[name] = ArchiveMember(place, member.offset_data, member.size)
                elif (extension := name.removeprefix(_key(name)).lower()) in READERS:
                    told[_key(name) + extension] = _read(archive, member, READERS[extension])
    except TarError as error:
        problems.append(f"not an uncompressed tar archive ({error})")
    yield from _recordings(audio, told, stem, shown)
    for problem in problems:
        yield Recording(printable(stem), shown, None, None, Unreadable(problem))


def _members(archive: TarFile, problems: list[str]) -> Iterator[TarInfo]:
    """The files of an archive, as far as it can be read; then, what stops the reading is put to the problems."""
    try:
        while (member := archive.next()) is not None:
            # It would keep millions of them.
            archive.members.clear()  # type: ignore[attr-defined]
            if member.isreg() and not os.path.basename(member.name).startswith("."):
                yield member
    except TarError as error:
        problems.append(f"ends too early ({error})")
        return
    # To tarfile, a damaged header is as good an end as the block of zeros that is due there.
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if any(archive.fileobj.read(BLOCKSIZE)):
        problems.append(f"damaged at byte {archive.offset}; what follows is lost")


def _key(name: str) -> str:
    folder, base = os.path.split(name)
    return os.path.join(folder, base.split(".")[0])


def _recordings(
    audio: Mapping[str, ArchiveMember], told: Mapping[str, _Told], stem: str, source: str
) -> Iterator[Recording]:
    keys = {_key(name) for name in audio}
    problems = [one.problem for name, one in told.items() if one.problem and _key(name) in keys]
    if problems:
        log.warning("%s: what %d members tell of audio is left out; the first: %s", source, len(problems), problems[0])
    nothing = _Told()
    for (name, place), below in zip(audio.items(), without_suffixes(list(audio)), strict=True):
        json_told, text_told = (told.get(_key(name) + extension, nothing) for extension in (".json", ".txt"))
        yield Recording(
            printable(f"{stem}/{below}"),
            f"{source}:{printable(name)}",
            json_told.speaker,
            text_told.transcript or json_told.transcript,
            place,
        )


def _read(archive: TarFile, member: TarInfo, parse: Callable[[str], _Told]) -> _Told:
    if member.size > MAX_TEXT_BYTES:
        return _Told(problem=f"{member.name} must be of at most {MAX_TEXT_BYTES} bytes; it is of {member.size}")
    file = archive.extractfile(member)
    assert file is not None
    try:
        return parse(file.read().decode("utf-8-sig", "backslashreplace"))
    except TarError as error:
        return _Told(problem=f"{member.name}: {error}")
    except (ValueError, RecursionError):
        return _Told(problem=f"{member.name} must be a JSON object; it is not")


def _parse_json(text: str) -> _Told:
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("must be an object")
    speaker, transcript = (to_text(fields.get(find_name(fields, field))) for field in ("speaker", "transcript"))
    return _Told(speaker, transcript)


def _parse_text(text: str) -> _Told:
    return _Told(transcript=to_text(text.strip()))


READERS = {".json": _parse_json, ".txt": _parse_text}
