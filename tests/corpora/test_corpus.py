import re
import shutil

import numpy as np
import pytest
import soundfile

from codec.corpora.clip import Clip
from codec.corpora.corpus import find_clips
from codec.corpora.manifest import write_manifest


@pytest.fixture
def mixed(tmp_path, clips):
    """A folder of three files that can be trained on, and four that cannot."""
    (tmp_path / "1963/1").mkdir(parents=True)
    shutil.copy(clips[0], tmp_path / "1963/1/a.flac")
    soundfile.write(tmp_path / "1963/b.wav", np.zeros((44_100, 2)), 44_100)
    soundfile.write(tmp_path / "c.ogg", np.zeros(8_000), 8_000)
    (tmp_path / "bad.flac").write_bytes(b"not audio")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "short.wav", np.zeros(1_600), 16_000)
    return tmp_path


def test_a_split_of_librispeech_is_found_with_its_speakers_in_the_order_of_the_paths(librispeech):
    clips, skipped = find_clips(librispeech / "train-clean-100")
    assert [clip.path.stem for clip in clips] == [
        f"{name}-{number:04d}" for name in ("1963-142393", "3259-158083", "6181-216552") for number in (0, 1)
    ]
    assert clips[2] == Clip(clips[2].path, 1.0, "3259")
    assert skipped == {}


def test_any_audio_is_found_and_what_cannot_be_trained_on_is_skipped_with_the_reason(mixed):
    clips, skipped = find_clips(mixed)
    assert clips == [
        Clip(mixed / "1963/1/a.flac", 3.4, "1963"),
        Clip(mixed / "1963/b.wav", 1.0, "1963"),
        Clip(mixed / "c.ogg", 1.0, ""),
    ]
    assert skipped == {
        str(mixed / "bad.flac"): "not readable as audio (Format not recognised)",
        str(mixed / "empty.wav"): "is an empty file",
        str(mixed / "none.wav"): "holds no samples",
        str(mixed / "short.wav"): "lasts 0.1 s, less than 0.5 s",
    }


def test_the_shortest_length_can_be_chosen(mixed):
    assert [clip.path.name for clip in find_clips(mixed, min_seconds=2).clips] == ["a.flac"]
    assert mixed / "short.wav" in [clip.path for clip in find_clips(mixed, min_seconds=0).clips]


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_a_manifest_is_believed_without_opening_a_file(tmp_path, suffix):
    listed = [Clip(tmp_path / "z.wav", 9.0, "1"), Clip(tmp_path / "a.wav", 0.2, "2"), Clip(tmp_path / "b.wav", 8.0, "")]
    write_manifest(listed, tmp_path / f"clips{suffix}")
    clips, skipped = find_clips(tmp_path / f"clips{suffix}")
    assert clips == [listed[0], listed[2]]
    assert skipped == {str(tmp_path / "a.wav"): "lasts 0.2 s, less than 0.5 s"}


def test_a_manifest_of_a_folder_gives_what_the_folder_gives(mixed):
    clips = find_clips(mixed).clips
    write_manifest(clips, mixed / "clips.tsv")
    assert find_clips(mixed / "clips.tsv").clips == clips


def test_nothing_to_train_on_is_an_error_that_says_where_and_why(tmp_path):
    with pytest.raises(
        ValueError, match=rf"{tmp_path}/nowhere must be a folder with audio files \(.*\) in it or below"
    ):
        find_clips(tmp_path / "nowhere")
    (tmp_path / "a.wav").touch()
    (tmp_path / "b.wav").touch()
    message = (
        f"{tmp_path} must list audio of at least 0.5 s; skipped 2 files, the first {tmp_path}/a.wav: is an empty file"
    )
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        find_clips(tmp_path)
    (tmp_path / "clips.tsv").write_text("path\tduration\n")
    with pytest.raises(ValueError, match=r"clips\.tsv must list audio of at least 0\.5 s; skipped 0 files$"):
        find_clips(tmp_path / "clips.tsv")
    with pytest.raises(FileNotFoundError, match=r"missing\.jsonl"):
        find_clips(tmp_path / "missing.jsonl")
