import json
import re

import pytest
import torch

from codec.audio import AudioFileError, read_audio
from codec.corpora import webdataset
from codec.corpora.place import Unreadable
from codec.corpora.webdataset import list_archive


def problems(recordings):
    return [(one.id, one.place.problem) for one in recordings if isinstance(one.place, Unreadable)]


def test_members_of_one_key_are_a_recording_in_the_order_of_the_archive(write_tar, clips):
    speech = [clip.read_bytes() for clip in clips]
    path = write_tar(
        "x.tar",
        [
            ("./b.json", json.dumps({"speaker_id": 7, "text": "not me", "more": [1]}).encode()),
            ("./b.flac", speech[0]),
            ("./b.txt", "é, I\n".encode()),
            ("sub/a.flac", speech[1]),
            ("sub/a.json", b'{"transcription": "go on", "speaker": ""}'),
            ("sub/a.cls", b"1"),
            ("alone.txt", b"no audio"),
            ("c.txt", b"both"),
            ("._c.flac", b"what a Mac adds"),
            ("c.near.FLAC", speech[2]),
            ("c.far.flac", speech[0]),
        ],
    )
    recordings = list(list_archive(path, "x"))
    assert [(one.id, one.speaker, one.transcript) for one in recordings] == [
        ("x/b", "7", "é, I"),
        ("x/sub/a", None, "go on"),
        ("x/c.near", None, "both"),
        ("x/c.far", None, "both"),
    ]
    assert recordings[0].source == f"{path}:./b.flac"
    for one, clip in zip(recordings, [*clips, clips[0]], strict=True):
        with one.open() as source:
            assert torch.equal(source.read_all(), read_audio(clip).waveform)


def test_nothing_is_kept_of_members_that_were_passed(write_tar, monkeypatch):
    kept = []
    of_group = webdataset._recordings
    monkeypatch.setattr(
        webdataset,
        "_recordings",
        lambda archive, *rest: (kept.append(len(archive.members)), of_group(archive, *rest))[1],
    )
    path = write_tar("x.tar", [(f"{number}.flac", b"abc") for number in range(50)])
    assert len(list(list_archive(path, "x"))) == 50
    assert max(kept) <= 1


@pytest.mark.parametrize("kept", [512 * 4 + 100, 512 * 5])
def test_what_is_whole_of_a_truncated_archive_is_listed_and_the_rest_is_told(write_tar, kept):
    path = write_tar("x.tar", [(f"{key}.flac", bytes(500)) for key in "abc"])
    path.write_bytes(path.read_bytes()[:kept])
    recordings = list(list_archive(path, "x"))
    assert [one.id for one in recordings][:2] == ["x/a", "x/b"]
    assert problems(recordings) in (
        [("x", f"damaged at byte {512 * 4}; what follows is lost")],
        [("x", "ends too early (unexpected end of data)")],
    )
    assert recordings[-1].source == str(path)


def test_a_damaged_header_does_not_hide_what_is_before_it(write_tar):
    path = write_tar("x.tar", [(f"{key}.flac", bytes(500)) for key in "abc"])
    data = bytearray(path.read_bytes())
    data[1024:1030] = b"\xff" * 6
    path.write_bytes(data)
    recordings = list(list_archive(path, "x"))
    assert [one.id for one in recordings] == ["x/a", "x"]
    with (
        pytest.raises(AudioFileError, match=rf"^{re.escape(str(path))}: damaged at byte 1024; what follows is lost$"),
        recordings[-1].open(),
    ):
        pass


@pytest.mark.parametrize("data", [b"", b"no archive" * 100, b"\x1f\x8b" + bytes(600)])
def test_what_is_no_tar_archive_is_told(tmp_path, data):
    (tmp_path / "x.tar").write_bytes(data)
    ((name, problem),) = problems(list_archive(tmp_path / "x.tar", "x"))
    assert name == "x"
    assert re.fullmatch(r"not an uncompressed tar archive \(.+\)", problem)


def test_an_archive_of_nothing_lists_nothing(write_tar):
    assert list(list_archive(write_tar("x.tar", []), "x")) == []


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b"{", "a.json must be a JSON object; it is not"),
        ("a.json", b"\xff\xfe", "a.json must be a JSON object; it is not"),
        ("a.json", b"[1]", "a.json must be a JSON object; it is not"),
        ("a.txt", bytes((1 << 20) + 1), "a.txt must be text of at most 1048576 bytes; it is of 1048577"),
    ],
)
def test_bad_text_costs_its_own_recording_alone(write_tar, name, data, message):
    path = write_tar("x.tar", [("a.flac", b"1"), (name, data), ("b.flac", b"2"), ("b.txt", b"\xff")])
    recordings = list(list_archive(path, "x"))
    assert problems(recordings) == [("x/a", message)]
    assert recordings[1].transcript == "\\xff"
