import json
import os

import pytest

from codec.audio import AudioFileError, find_audio
from codec.corpora.folder import list_folder, walk
from codec.corpora.place import File
from codec.model import Codec
from codec.shards.job import plan_job, start_job


@pytest.fixture
def fill(tmp_path):
    """Make files of a folder: names, or names and texts."""

    def fill(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return fill


def listed(folder):
    return list(list_folder(folder, list(walk(folder))))


def test_files_are_those_that_find_audio_finds_in_the_same_order(fill):
    folder = fill(
        dict.fromkeys(["b/1.wav", "b.wav", "b-c/x.flac", "B.OGG", "a/b/c/d.mp3", "a/z.aiff", "b/notes.md"], "")
    )
    os.symlink(folder / "a", folder / "link")
    os.symlink(folder / "b.wav", folder / "linked.wav")
    assert [one.place.path for one in listed(folder)] == [str(path) for path in find_audio(folder)]
    assert [one.source for one in listed(folder)] == [
        str(path.relative_to(folder.parent)) for path in find_audio(folder)
    ]


def test_links_to_folders_are_followed_but_to_nothing_twice(fill):
    folder = fill(dict.fromkeys(["in/real/1.wav", "elsewhere/2.wav", "elsewhere/sub/3.wav", "outside.wav"], "")) / "in"
    targets = ["../elsewhere/sub", "../elsewhere", "../elsewhere", "real", ".", "../elsewhere/sub", "loop"]
    for name, target in zip([*"abcdef", "loop"], targets, strict=True):
        os.symlink(target, folder / name)
    os.symlink("../in", folder.parent / "elsewhere/back")
    assert list(walk(folder)) == ["a/3.wav", "b/2.wav", "loop", "real/1.wav"]
    os.symlink("..", folder / "whole")
    assert list(walk(folder))[-1] == "whole/outside.wav"


def test_links_to_nowhere_are_recordings_that_cannot_be_opened(fill):
    folder = fill({"a.wav": ""})
    os.symlink("nowhere", folder / "b.wav")
    os.symlink("c.wav", folder / "c.wav")
    os.symlink("nowhere", folder / "notes")
    assert [one.id for one in listed(folder)] == ["a", "b", "c"]
    for recording, problem in zip(listed(folder)[1:], ["No such file", "Too many levels"], strict=True):
        with pytest.raises(AudioFileError, match=problem), recording.open():
            pass


def test_what_was_tokenized_into_the_folder_is_passed_over(fill):
    folder = fill({"a.wav": "", "tokens/old/b.wav": "", "mine/job.json": "[]", "mine/c.wav": ""})
    codec = Codec.from_pretrained("speech_16khz")
    start_job(folder / "out/tokens", plan_job(codec, listed(folder)), listed(folder))
    assert {path.name for path in (folder / "out/tokens").iterdir()} == {"job.json", "plan.jsonl"}
    assert list(walk(folder)) == ["a.wav", "mine/c.wav", "mine/job.json", "tokens/old/b.wav"]
    (folder / "out/tokens/job.json").write_text(json.dumps({"mine": 1}))
    assert "out/tokens/plan.jsonl" in walk(folder)


def test_an_id_is_the_path_without_suffix_and_the_first_folder_speaks(fill):
    recordings = listed(fill({"anna/1/a.b.wav": "", "c.flac": ""}))
    assert [(one.id, one.speaker, one.transcript) for one in recordings] == [
        ("anna/1/a.b", "anna", None),
        ("c", None, None),
    ]


def test_files_that_differ_in_their_suffix_alone_keep_it(fill):
    recordings = listed(fill(dict.fromkeys(["s/a.flac", "s/a.g.wav", "s/a.wav", "t/a.wav", "s/a.txt"], "")))
    assert [one.id for one in recordings] == ["s/a.flac", "s/a.g", "s/a.wav", "t/a"]


@pytest.mark.parametrize("split", ["", "dev-clean/", "LibriTTS/dev-clean/"])
def test_in_the_layout_of_librispeech_the_folder_above_the_chapter_speaks(fill, split):
    folder = fill(dict.fromkeys([f"{split}84/121/84-121-0000.flac", f"{split}84/122/84_122_000_001.wav"], ""))
    assert [one.speaker for one in listed(folder)] == ["84", "84"]


def test_transcripts_of_librispeech_are_found_where_they_are(fill):
    recordings = listed(
        fill(
            {
                "84/121/84-121-0000.flac": "",
                "84/121/84-121-0001.flac": "",
                "84/121/84-121-0002.flac": "",
                "84/121/84-121.trans.txt": "84-121-0000 GO  ON\n84-121-0001\n84-122-0000 ELSEWHERE\n",
                "84/122/84-122-0000.flac": "",
            }
        )
    )
    assert [one.transcript for one in recordings] == ["GO  ON", None, None, None]


def test_a_name_that_is_no_unicode_is_shown_as_such_and_can_be_opened(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.wav")).touch()
    (found,) = listed(tmp_path)
    assert (found.id, found.source) == ("\\xff", f"{tmp_path.name}/\\xff.wav")
    assert os.path.exists(found.place.path)


def test_a_folder_is_the_same_however_its_path_is_written(fill, monkeypatch):
    folder = fill({"in/b/a.wav": ""}) / "in"
    monkeypatch.chdir(folder)
    for path in (folder, ".", "../in/", "b/.."):
        (found,) = listed(type(folder)(path))
        assert (found.source, found.place) == ("in/b/a.wav", File(str(folder / "b/a.wav")))
