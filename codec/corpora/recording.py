"""One recording of a corpus, wherever it lies."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from codec.audio import AudioFileError, AudioSource, open_source
from codec.audio.sound import audio_errors
from codec.choose import choose
from codec.corpora.place import PLACES, Place
from codec.settings import settings_from

KEYS = ("id", "source", "speaker", "transcript", "place")
KINDS = {place: kind for kind, place in PLACES.items()}


@dataclass(frozen=True, slots=True)
class Recording:
    """Audio of any sample rate and channel count, and what is known of it without opening it.

    All of its text is valid Unicode; a name of a file that is not has its odd bytes as "\\xff".

    Attributes:
        id: Unique in its corpus.
        source: Where it came from, for people: "clips/a/b.flac", "shards/x.tar:b.flac", "x.parquet[12]". It begins with
            the name of what was given, wherever that lies, so that it is the same however its path was written.
        speaker: Who speaks; None if nobody knows.
        transcript: What is said; None if nobody knows.
        place: Where its bytes are.
    """

    id: str
    source: str
    speaker: str | None
    transcript: str | None
    place: Place

    @contextmanager
    def open(self) -> Iterator[AudioSource]:
        """Open the audio; what is wrong with it is told under the name of `source`.

        Raises:
            AudioFileError: It is not there, is not audio, or claims a sample rate outside of 1 kHz to 1 MHz. Reading
                the source raises it too, but nothing else that goes on in the block does.
        """
        with ExitStack() as stack:
            with audio_errors(self.source):
                file = stack.enter_context(self.place.open(self.source))
            name = f"descriptor {file}" if isinstance(file, int) else file
            try:
                source = stack.enter_context(open_source(file))
            except (AudioFileError, ValueError) as error:  # no file has such a name
                raise AudioFileError(f"{self.source}: {str(error).removeprefix(f'{name}: ')}") from error
            source.name = self.source
            yield source

    def to_json(self) -> str:
        """One line of ASCII; see `from_json`."""
        values = [getattr(self, key) for key in KEYS[:-1]]
        place = {"kind": KINDS[type(self.place)], **asdict(self.place)}  # type: ignore[call-overload]
        return json.dumps(dict(zip(KEYS, [*values, place], strict=True)))

    @classmethod
    def from_json(cls, line: str) -> "Recording":
        """Read what `to_json` gave.

        Raises:
            ValueError: It is something else.
        """
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict) or set(fields) != set(KEYS) or not isinstance(fields["place"], dict):
            raise ValueError(f"recording must be a JSON object of {', '.join(KEYS)}; got {line[:60]!r}")
        place = dict(fields["place"])
        kind: type[Any] = choose(PLACES, str(place.pop("kind", None)), "kind of place")
        return cls(**{**fields, "place": settings_from(place, kind, "place.")})
