"""scripts/evaluate.py: a table of bitrates and one of stages, of any model on any folder."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import typer

from codec import Codec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(load_script: Callable[[Path], ModuleType]) -> ModuleType:
    return load_script(ROOT / "scripts/evaluate.py")


@pytest.fixture
def rows(script: ModuleType, clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable:
    """Score the shipped model on a clip, and read what is printed: cells, line by line."""

    def run(**options) -> list[list[str]]:
        (tmp_path / clips[1].name).symlink_to(clips[1])
        script.main(tmp_path, **options)
        lines = capsys.readouterr().out.splitlines()
        codec = Codec.from_pretrained("speech_16khz")
        assert lines[0] == f"Model speech_16khz ({codec.fingerprint()}) on cpu"
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]

    return run


def test_a_quarter_half_and_all_of_the_stages_are_scored_by_default(rows: Callable) -> None:
    stages = Codec.from_pretrained("speech_16khz").num_quantizers
    table = rows()
    assert table[0][:3] == ["bit/s", "stages", "PESQ-WB"]
    assert [row[1] for row in table[2:5]] == [str(stages // 4), str(stages // 2), str(stages)]
    scores = [float(row[2]) for row in table[2:5]]
    assert 1 < scores[0] < scores[1] < scores[2] < 4.6
    assert [row[0] for row in table[8:]] == [str(stage) for stage in range(1, stages + 1)]


def test_bitrates_are_chosen_and_the_latents_scored(rows: Callable) -> None:
    table = rows(bitrate=[1000], unquantized=True)
    assert [row[1] for row in table[2:4]] == ["2", "none"]
    assert 0 < float(table[2][0]) <= 1200


def test_a_manifest_lists_the_clips(
    script: ModuleType, clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "some.tsv").write_text(f"path\tduration\n{clips[1]}\t2.0\n")
    script.main(tmp_path / "some.tsv", bitrate=[500])
    assert capsys.readouterr().out.splitlines()[4].split("|")[7].strip() == "1"


def test_a_folder_without_audio_is_an_error_of_one_line(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        script.main(tmp_path)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
