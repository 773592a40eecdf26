import re

import pytest

from codec.audio import find_audio


def test_audio_is_found_in_a_folder_and_below_in_the_order_of_the_paths(tmp_path):
    for name in ("b.FLAC", "1963/10/a.wav", "1963/a.txt", "c.ogg", "d.flac/e.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [str(path.relative_to(tmp_path)) for path in find_audio(tmp_path)]
    assert names == ["1963/10/a.wav", "b.FLAC", "c.ogg", "d.flac/e.mp3"]


def test_a_folder_without_audio_is_an_error_that_says_where_it_looked_and_for_what(tmp_path, monkeypatch):
    (tmp_path / "text.txt").touch()
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "text.txt"):
        message = re.escape(f"{folder} must be a folder with audio files (.aif, .aiff, .flac, ")
        with pytest.raises(ValueError, match=rf"^{message}.*\) in it or below; got none$"):
            find_audio(folder.relative_to(tmp_path))
