"""WebDataset shards: tar archives of key.flac with key.txt and key.json next to it."""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from tarfile import BLOCKSIZE, TarError, TarFile, TarInfo
from typing import Any

from codec.corpora.fields import find_name, printable, to_text
from codec.corpora.folder import is_audio
from codec.corpora.place import ArchiveMember, Place, Unreadable
from codec.corpora.recording import Recording

# Of text about one recording; an archive that says more is damaged.
MAX_TEXT_BYTES = 1 << 20


def list_archive(path: Path, stem: str) -> Iterator[Recording]:
    """List the recordings of a shard by the headers of its members; it is not unpacked.

    Members that follow each other and have the same name up to its first dot belong together. A transcript is the text
    of .txt, or else what .json calls transcript or text; a speaker is what .json calls so. Damage does not hide the
    recordings before it; for each damage there is an unreadable recording.

    Args:
        path: An uncompressed tar archive.
        stem: What the ids begin with: STEM/KEY.

    Returns:
        In the order of the archive.

    Raises:
        OSError: The archive cannot be read.
    """
    problems: list[str] = []
    try:
        # Not compressed: of a compressed archive no member could be read without all that is before it.
        with TarFile.open(path, "r:") as archive:
            for _, members in groupby(_members(archive, problems), key=lambda member: _key(member.name)):
                yield from _recordings(archive, list(members), path, stem)
    except TarError as error:
        problems.append(f"not an uncompressed tar archive ({error})")
    for problem in problems:
        yield Recording(stem, printable(str(path)), None, None, Unreadable(problem))


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


def _recordings(archive: TarFile, members: Iterable[TarInfo], path: Path, stem: str) -> Iterator[Recording]:
    """All audio among members of one key."""
    extensions = {member.name.removeprefix(_key(member.name)).lower(): member for member in members}
    audio = [member for member in extensions.values() if is_audio(member.name)]
    if not audio:
        return
    problem = None
    fields: dict[Any, Any] = {}
    try:
        fields = _fields(archive, extensions)
    except (TarError, ValueError) as error:
        problem = str(error)
    for member in audio:
        place: Place = ArchiveMember(os.path.abspath(path), member.offset_data, member.size)
        yield Recording(
            printable(f"{stem}/{os.path.splitext(member.name.removeprefix('./'))[0]}"),
            printable(f"{path}:{member.name}"),
            to_text(fields.get(find_name(fields, "speaker"))),
            to_text(fields.get(find_name(fields, "transcript"))),
            Unreadable(problem) if problem else place,
        )


def _fields(archive: TarFile, extensions: dict[str, TarInfo]) -> dict[Any, Any]:
    fields: Any = {}
    if (member := extensions.get(".json")) is not None:
        try:
            fields = json.loads(_read_text(archive, member))
        except json.JSONDecodeError:
            fields = None
        if not isinstance(fields, dict):
            raise ValueError(f"{member.name} must be a JSON object; it is not")
    if (member := extensions.get(".txt")) is not None:
        fields["transcript"] = _read_text(archive, member).strip()
    return fields


def _read_text(archive: TarFile, member: TarInfo) -> str:
    if member.size > MAX_TEXT_BYTES:
        raise ValueError(f"{member.name} must be text of at most {MAX_TEXT_BYTES} bytes; it is of {member.size}")
    file = archive.extractfile(member)
    assert file is not None
    return file.read().decode("utf-8-sig", "backslashreplace")
