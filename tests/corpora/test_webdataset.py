import json
import logging
import re
from tarfile import TarFile

import pytest
import torch

from codec.audio import AudioFileError, read_audio
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
            ("sub/a.flac", speech[1]),
            ("sub/a.json", b'{"transcription": "go on", "speaker": ""}'),
            ("sub/a.cls", b"1"),
            ("alone.txt", b"no audio"),
            ("c.txt", b"both"),
            ("._c.flac", b"what a Mac adds"),
            ("c.near.FLAC", speech[2]),
            ("c.far.flac", speech[0]),
            ("./b.txt", "é, I\n".encode()),
        ],
    )
    recordings = list(list_archive(path, "x"))
    assert [(one.id, one.speaker, one.transcript) for one in recordings] == [
        ("x/b", "7", "é, I"),
        ("x/sub/a", None, "go on"),
        ("x/c.near", None, "both"),
        ("x/c.far", None, "both"),
    ]
    assert recordings[0].source == "x.tar:b.flac"
    assert next(list_archive(path, "x", "shards/x.tar")).source == "shards/x.tar:b.flac"
    for one, clip in zip(recordings, [*clips, clips[0]], strict=True):
        with one.open() as source:
            assert torch.equal(source.read_all(), read_audio(clip).waveform)


def test_nothing_is_kept_of_members_that_were_passed(write_tar, monkeypatch):
    kept = []
    of_tarfile = TarFile.next
    monkeypatch.setattr(TarFile, "next", lambda archive: (kept.append(len(archive.members)), of_tarfile(archive))[1])
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
    assert recordings[-1].source == "x.tar"


def test_a_damaged_header_does_not_hide_what_is_before_it(write_tar):
    path = write_tar("x.tar", [(f"{key}.flac", bytes(500)) for key in "abc"])
    data = bytearray(path.read_bytes())
    data[1024:1030] = b"\xff" * 6
    path.write_bytes(data)
    recordings = list(list_archive(path, "x"))
    assert [one.id for one in recordings] == ["x/a", "x"]
    with (
        pytest.raises(AudioFileError, match=r"^x\.tar: damaged at byte 1024; what follows is lost$"),
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
        ("a.json", b"[" * 200_000, "a.json must be a JSON object; it is not"),
        ("a.json", b'{"speaker": ' + b"1" * 5_000 + b"}", "a.json must be a JSON object; it is not"),
        ("a.txt", bytes((1 << 20) + 1), "a.txt must be of at most 1048576 bytes; it is of 1048577"),
    ],
)
def test_bad_text_costs_itself_alone(write_tar, caplog, name, data, message):
    other = {"a.json": ("a.txt", b"said"), "a.txt": ("a.json", b'{"text": "said"}')}[name]
    path = write_tar("x.tar", [("a.flac", b"1"), (name, data), other, ("b.flac", b"2"), ("b.txt", b"\xff")])
    with caplog.at_level(logging.WARNING, "codec"):
        recordings = list(list_archive(path, "x"))
    assert not problems(recordings)
    assert [(one.id, one.speaker, one.transcript) for one in recordings] == [
        ("x/a", None, "said"),
        ("x/b", None, "\\xff"),
    ]
    assert caplog.messages == [f"x.tar: what 1 members tell of audio is left out; the first: {message}"]


def test_half_a_character_is_text_like_any_other(write_tar):
    path = write_tar(
        "x.tar", [("a.flac", b"1"), ("a.json", rb'{"transcript": "oops \ud83d", "speaker": "\ud83d\ude00"}')]
    )
    (found,) = list_archive(path, "x")
    assert (found.transcript, found.speaker) == (r"oops \ud83d", "\U0001f600")


def test_text_that_is_cut_off_is_left_out(write_tar, caplog):
    path = write_tar("x.tar", [("a.flac", b"1"), ("a.txt", b"x" * 600)])
    path.write_bytes(path.read_bytes()[: 512 * 3 + 100])
    audio, damage = list_archive(path, "x")
    assert (audio.transcript, damage.id) == (None, "x")
    assert "what 1 members tell of audio is left out; the first: a.txt: unexpected end of data" in caplog.text


def test_of_members_that_differ_in_their_suffix_the_suffix_stays_and_of_one_name_the_last(write_tar):
    path = write_tar(
        "x.tar", [("a.flac", b"1"), ("a.wav", b"22"), ("b.wav", b"3"), ("./a.wav", b"444"), ("a.txt", b"t")]
    )
    recordings = list(list_archive(path, "x"))
    assert [(one.id, one.place.size, one.transcript) for one in recordings] == [
        ("x/a.flac", 1, "t"),
        ("x/a.wav", 3, "t"),
        ("x/b", 1, None),
    ]
