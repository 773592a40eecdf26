"""scripts/listen.py: the worst clips are told in a table, they and clips of different speakers are drawn."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import soundfile
import typer

from codec.audio import find_audio

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(load_script: Callable[[Path], ModuleType]) -> ModuleType:
    return load_script(ROOT / "scripts/listen.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, clips: list[Path]) -> Path:
    """Two seconds of two speakers, and half a second of silence."""
    folder = tmp_path_factory.mktemp("speech")
    for clip in clips[1:]:
        samples, sample_rate = soundfile.read(clip, frames=32_000)
        soundfile.write(folder / clip.name, samples, sample_rate)
    soundfile.write(folder / "silence.wav", [0.0] * 8000, 16_000)
    return folder


def test_the_worst_clip_and_a_clip_of_each_of_two_speakers_are_written(
    script: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(folder, bitrate=3000, worst=1, clips=2, output=tmp_path / "new")
    lines = capsys.readouterr().out.splitlines()
    head, worst, mean = ([cell.strip() for cell in lines[number].strip("|").split("|")] for number in (2, 4, 5))
    assert lines[0].startswith("Model speech_16khz (")
    assert lines[0].endswith(") with 6 stages, 3 clips")
    assert head[:4] == ["clip", "PESQ-WB", "STOI", "fricatives"]
    assert len(lines) == 6
    assert len(head) == len(worst) == len(mean) == 1 + len(script.COLUMNS)
    assert mean[0] == "mean of all"
    # The silent clip has no score: it is neither the worst nor part of the mean.
    assert 1 < float(worst[1]) < float(mean[1]) < 4.6
    names = ["3259-158083-0000", "6181-216552-0000", f"worst-1-{worst[0]}"]
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == sorted(f"{name}{suffix}" for name in names for suffix in (".png", ".wav"))
    for name in names:
        assert soundfile.info(tmp_path / "new" / f"{name}.wav").frames == 32_000
        assert (tmp_path / "new" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_speakers_are_those_of_the_folders_or_of_the_names(script: ModuleType, librispeech: Path, folder: Path) -> None:
    found = script.find_clips(librispeech)
    assert [clip.path for clip in found] == find_audio(librispeech)
    firsts = script.one_a_speaker(found, 5)
    assert [clip.speaker for clip in firsts] == ["1963", "3259", "6181"]
    assert firsts[0].name == "1963-142393-0002"  # dev-clean comes before train-clean-100
    assert [clip.speaker for clip in script.one_a_speaker(script.find_clips(folder), 2)] == ["3259", "6181"]


def test_clips_of_the_same_name_are_told_apart_by_their_folders(script: ModuleType, tmp_path: Path) -> None:
    for speaker in ("ann", "bob"):
        (tmp_path / speaker).mkdir()
        soundfile.write(tmp_path / speaker / "1.wav", [0.1, 0.2], 16_000)
    found = script.find_clips(tmp_path)
    assert [(clip.name, clip.speaker) for clip in found] == [("ann-1", "ann"), ("bob-1", "bob")]


def test_clips_whose_folders_make_one_name_are_told_apart_by_their_place(script: ModuleType, tmp_path: Path) -> None:
    for name in ("a-b/1.wav", "a/b-1.wav", "a/1.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, [0.1, 0.2], 16_000)
    found = script.find_clips(tmp_path)
    assert [clip.path for clip in found] == find_audio(tmp_path)
    assert [clip.name for clip in found] == ["a-1-1", "a-b-1-2", "a-b-1-3"]


def test_a_bitrate_that_the_model_lacks_is_an_error_of_one_line(
    script: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        script.main(folder, bitrate=1, output=tmp_path / "new")
    error = capsys.readouterr().err
    assert error.startswith("error: bitrate must be ")
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()
