import os

import pytest

from codec.audio import find_audio
from codec.corpora.folder import list_folder, walk
from codec.corpora.place import File


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
    os.symlink(folder / "nowhere", folder / "broken.wav")
    assert [one.source for one in listed(folder)] == [str(path) for path in find_audio(folder)]


def test_an_id_is_the_path_without_suffix_and_the_first_folder_speaks(fill):
    recordings = listed(fill({"anna/1/a.b.wav": "", "c.flac": ""}))
    assert [(one.id, one.speaker, one.transcript) for one in recordings] == [
        ("anna/1/a.b", "anna", None),
        ("c", None, None),
    ]


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
    assert (found.id, found.source) == ("\\xff", f"{tmp_path}/\\xff.wav")
    assert os.path.exists(found.place.path)


def test_sources_are_as_given_and_places_do_not_depend_on_the_working_folder(fill, monkeypatch):
    folder = fill({"in/a.wav": ""})
    monkeypatch.chdir(folder)
    (found,) = listed(type(folder)("in"))
    assert (found.source, found.place) == ("in/a.wav", File(str(folder / "in/a.wav")))
