import math
from pathlib import Path

import pytest

from codec.evaluate.history import group_of, read_lines, scalar_names, scores_by_bitrate


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_lines_are_read_with_numbers_that_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", '{"step": 1, "loss": NaN}\n{"step": 2, "loss": -Infinity}\n')
    first, second = read_lines(path)
    assert (first["step"], second["step"]) == (1, 2)
    assert math.isnan(first["loss"])
    assert second["loss"] == -math.inf


@pytest.mark.parametrize(
    "damaged", ['{"step": 2, "lo', '{"step": 2, "lo{"step": 3}', "[1]", '{"loss": 1}', "7", "\0", ""]
)
def test_damaged_lines_are_left_out(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "log.jsonl"
    assert read_lines(write(path, f'{{"step": 1}}\n{damaged}\n{{"step": 4}}\n')) == [{"step": 1}, {"step": 4}]
    assert read_lines(write(path, f'{{"step": 1}}\n{damaged}')) == [{"step": 1}]
    assert read_lines(write(path, damaged)) == []


def test_names_are_those_of_numbers_in_any_line_by_first_occurrence() -> None:
    lines = [
        {"step": 1, "stft": 1.0, "gradient_norm": 2.0, "perplexity": [3.0]},
        {"step": 2, "adversarial": 1, "stft": 1.0, "discriminator_gradient_norm": 4.0},
    ]
    assert scalar_names(lines, "loss") == ["stft", "adversarial"]
    assert scalar_names(lines, "gradient") == ["gradient_norm", "discriminator_gradient_norm"]


def test_every_number_has_a_group() -> None:
    groups = {
        "loss": ["loss", "log_mel", "feature_matching"],
        "gradient": ["gradient_norm", "discriminator_gradient_norm", "skipped_steps"],
        "learning_rate": ["learning_rate", "discriminator_learning_rate"],
        "throughput": ["audio_seconds_per_second", "data_share", "skipped_files"],
    }
    assert {group: [name for name in names if group_of(name) == group] for group, names in groups.items()} == groups


def test_scores_come_from_the_lowest_bitrate_to_the_highest() -> None:
    line = {"step": 5, "12000 bit/s": {"stoi": 0.9}, "3000 bit/s": {"stoi": 0.8}, "note": "x"}
    assert list(scores_by_bitrate(line).items()) == [(3000, {"stoi": 0.8}), (12000, {"stoi": 0.9})]
