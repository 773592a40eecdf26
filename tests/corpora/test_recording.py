import json
import os
import pickle
import re
import shutil

import pytest
import soundfile
import torch

from codec.audio import AudioFileError, read_audio
from codec.corpora.place import PLACES, ArchiveMember, DatasetRow, File, ParquetRow, Unreadable
from codec.corpora.recording import Recording

EXAMPLES = [
    File("/a/\udcff.flac"),
    ArchiveMember("/a/x.tar", 1 << 40, 7),
    DatasetRow("/a/x", "audio", 3),
    ParquetRow("/a/x.parquet", "speech", 3),
    Unreadable("damaged"),
]


def recording(place, source="shown"):
    return Recording("a/é", source, None, 'say \u2028 "it"', place)


@pytest.mark.parametrize("place", EXAMPLES, ids=lambda place: type(place).__name__)
def test_a_recording_of_any_place_fits_in_a_line_of_json_and_in_a_pickle(place):
    line = recording(place).to_json()
    assert line.isascii()
    assert "\n" not in line
    assert Recording.from_json(line) == recording(place)
    assert pickle.loads(pickle.dumps(recording(place))) == recording(place)


def test_every_place_is_among_the_examples():
    assert {type(place) for place in EXAMPLES} == set(PLACES.values())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[" * 200_000, "recording must be a JSON object of id, source, speaker, transcript, place; got '[[["),
        ("{", "recording must be a JSON object of id, source, speaker, transcript, place; got '{'"),
        (
            '{"id": "a"}',
            'recording must be a JSON object of id, source, speaker, transcript, place; got \'{"id": "a"}\'',
        ),
        (recording(EXAMPLES[0]).to_json().replace('"file"', '"files"'), "kind of place must be one of archive, "),
        (recording(EXAMPLES[1]).to_json().replace(": 7", ': "7"'), "place.size must be int; got '7'"),
    ],
)
def test_another_line_is_refused(line, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Recording.from_json(line)


@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg", "mp3"])
def test_audio_in_the_middle_of_an_archive_is_read_as_it_is_in_a_file(tmp_path, speech, suffix):
    soundfile.write(tmp_path / f"a.{suffix}", speech[0, 0].numpy(), 16_000)
    data = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / "x.tar").write_bytes(b"before" + data + b"after, and not zeros")
    with recording(ArchiveMember(str(tmp_path / "x.tar"), 6, len(data)), "x.tar:a").open() as source:
        assert (source.name, source.sample_rate, source.stated_length) == ("x.tar:a", 16_000, speech.shape[-1])
        inside = source.read_all()
    assert torch.equal(inside, read_audio(tmp_path / f"a.{suffix}").waveform)


def test_opening_leaves_no_descriptor_behind(tmp_path, clips):
    shutil.copy(clips[0], tmp_path / "x.tar")
    before = os.listdir("/proc/self/fd")
    for size in (clips[0].stat().st_size, 100):
        place = ArchiveMember(str(tmp_path / "x.tar"), 0, size)
        try:
            with recording(place).open() as source:
                source.read_all()
        except AudioFileError:
            assert size == 100
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (File("{folder}/bad.flac"), "shown: not readable as audio (Format not recognised)"),
        (File("{folder}/missing.flac"), "shown: No such file or directory"),
        (ArchiveMember("{folder}/bad.flac", 2, 3), "shown: not readable as audio (Format not recognised)"),
        (ArchiveMember("{folder}/bad.flac", 2, 0), "shown: is an empty file"),
        (
            ArchiveMember("{folder}/bad.flac", 2, 1 << 50),
            f"shown: the archive ends {(1 << 50) - 7} bytes before it does",
        ),
        (ArchiveMember("{folder}/missing.tar", 2, 3), "shown: No such file or directory"),
        (File("{folder}/half \ud83d.flac"), "shown: 'utf-8' codec can't encode character '\\ud83d' in position"),
        (File("{folder}/nul \0.flac"), "shown: embedded null byte"),
        (Unreadable("damaged"), "shown: damaged"),
    ],
)
def test_what_is_wrong_is_told_under_the_name_of_the_source(tmp_path, place, message):
    (tmp_path / "bad.flac").write_bytes(b"not audio")
    placed = Recording.from_json(recording(place).to_json().replace("{folder}", json.dumps(str(tmp_path))[1:-1]))
    with pytest.raises(AudioFileError, match=f"^{re.escape(message)}"), placed.open():
        pass


def test_errors_of_the_block_are_its_own(clips):
    with pytest.raises(FileNotFoundError, match="mine"), recording(File(str(clips[0]))).open():
        raise FileNotFoundError("mine")


def test_damage_in_the_samples_is_told_under_the_name_of_the_source(tmp_path, clips):
    data = clips[0].read_bytes()
    (tmp_path / "x.tar").write_bytes(data)
    place = ArchiveMember(str(tmp_path / "x.tar"), 0, len(data) // 2)
    with recording(place, "x.tar:a.flac").open() as source, pytest.raises(AudioFileError, match=r"^x\.tar:a\.flac: "):
        source.read_all()
