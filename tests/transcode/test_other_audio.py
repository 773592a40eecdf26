"""Music, noise and stereo speech that lies beside the repository, where it is there."""

import io
from pathlib import Path

import pytest
import soundfile

from codec.audio import AUDIO_SUFFIXES, open_sink, open_source
from codec.transcode import decode_file, encode_source

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "other-audio"
FILES = sorted(path for path in FOLDER.glob("*") if path.suffix in AUDIO_SUFFIXES)


@pytest.mark.slow
@pytest.mark.skipif(not FILES, reason="the files lie beside the repository")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_comes_back_at_its_rate_length_and_channels(codec, path, tmp_path):
    decoded = tmp_path / "decoded.wav"
    file = io.BytesIO()
    with open_source(path) as source:
        encode_source(codec, source, file)
    file.seek(0)
    decode_file(codec, file, lambda rate, channels, length: open_sink(decoded, rate, channels, length=length))
    before, after = soundfile.info(path), soundfile.info(decoded)
    assert (after.samplerate, after.channels, after.frames) == (before.samplerate, before.channels, before.frames)
