"""Manifests: lists of clips as text, so that a corpus is known without opening each of its files.

A TSV file has a header line that names its columns, a JSONL file an object in each line. Both hold `path`, relative to
the manifest's folder or absolute, `duration` in seconds, which only training needs, and, if known, `speaker`, `id` and
`transcript`; what else they hold is passed over.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from codec.choose import choose
from codec.corpora.clip import Clip

# Of a clip; written only if some clip has them.
RARE_COLUMNS = ("id", "transcript")


def read_manifest(path: Path, timed: bool = True) -> list[Clip]:
    """Read a manifest. The files that it lists are not looked at: what it says of them is trusted.

    Args:
        path: TSV or JSONL, as its suffix says.
        timed: Whether it must say how long each clip is. If not, a duration that it does not say is NaN.

    Returns:
        In the manifest's order.

    Raises:
        ValueError: Another suffix, or a line that is not what it must be; the message says which.
        OSError: The manifest cannot be read.
    """
    parse = choose(PARSERS, path.suffix, "suffix of a manifest")
    return [_to_clip(row, path.parent, where, timed) for where, row in parse(_numbered_lines(path), timed)]


def write_manifest(clips: Iterable[Clip], path: Path) -> None:
    """Write a manifest; an existing one is replaced.

    Args:
        clips: In the order that the manifest shall have.
        path: TSV or JSONL, as its suffix says. Paths of clips in its folder or below become relative to it.

    Raises:
        ValueError: Another suffix, or text that a TSV file cannot hold.
        OSError: The manifest cannot be written.
    """
    path.write_bytes(format_manifest(clips, path))


def format_manifest(clips: Iterable[Clip], path: Path) -> bytes:
    """The contents of a manifest that is to lie at `path`; see `write_manifest`."""
    to_line = choose(FORMATTERS, path.suffix, "suffix of a manifest")
    clips = list(clips)
    texts = ["speaker", *(column for column in RARE_COLUMNS if any(getattr(clip, column) for clip in clips))]
    header = "\t".join(["path", "duration", *texts]) + "\n" if path.suffix == ".tsv" else ""
    folder = os.path.abspath(path.parent)
    lines = [
        to_line({"path": _from_folder(clip.path, folder), "duration": float(clip.seconds), **_texts(clip, texts)})
        for clip in clips
    ]
    # Names of files are bytes; those that are no UTF-8 come through all the same.
    return (header + "".join(f"{line}\n" for line in lines)).encode("utf-8", "surrogateescape")


def _texts(clip: Clip, names: Iterable[str]) -> dict[str, str]:
    return {name: getattr(clip, name) for name in names}


def _numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    # "utf-8-sig" reads over the byte order mark that spreadsheets put in front.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", line.removesuffix("\n")


def _parse_tsv(lines: Iterator[tuple[str, str]], timed: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    columns = None
    for where, line in lines:
        cells = line.split("\t")
        if columns is None:
            columns = cells
            _require(columns, timed, f"{where}: header")
            continue
        if len(cells) != len(columns):
            raise ValueError(f"{where}: line must have {len(columns)} columns, as the header has; got {len(cells)}")
        yield where, dict(zip(columns, cells, strict=True))


def _parse_jsonl(lines: Iterator[tuple[str, str]], timed: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for where, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # also a number of thousands of digits
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{where}: line must be a JSON object; got {line[:60]!r}")
        _require(row, timed, f"{where}: object")
        yield where, row


def _require(names: Iterable[str], timed: bool, what: str) -> None:
    needed = ("path", "duration") if timed else ("path",)
    if not set(needed) <= set(names):
        raise ValueError(f"{what} must name {' and '.join(needed)}; got {', '.join(names) or 'nothing'}")


def _to_clip(row: Mapping[str, Any], folder: Path, where: str, timed: bool) -> Clip:
    path = row["path"]
    if not (isinstance(path, str) and path):
        raise ValueError(f"{where}: path must be the name of a file; got {path!r}")
    seconds = _to_seconds(row.get("duration"))
    if timed and math.isnan(seconds):
        raise ValueError(f"{where}: duration must be a positive number of seconds; got {row['duration']!r}")
    speaker, name, transcript = (_to_text(row.get(key)) for key in ("speaker", *RARE_COLUMNS))
    return Clip(folder / path, seconds, speaker, name, transcript)


def _to_seconds(value: Any) -> float:
    """NaN of what is no length of audio."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return seconds if 0 < seconds < math.inf else math.nan


def _to_text(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else ""


def _from_folder(path: Path, folder: str) -> str:
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)


def _to_tsv(row: Mapping[str, Any]) -> str:
    cells = [str(cell) for cell in row.values()]
    if any(character in cell for cell in cells for character in "\t\n\r"):
        raise ValueError(f"a TSV file cannot hold text with tabs or line breaks, a JSONL file can; got {row['path']!r}")
    return "\t".join(cells)


def _to_json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


PARSERS = {".tsv": _parse_tsv, ".jsonl": _parse_jsonl}
FORMATTERS = {".tsv": _to_tsv, ".jsonl": _to_json}
