"""The benchmark of training recipes, as it is started from a shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ROOT / "recipes" / "librispeech" / "tiny.toml"


def start(*command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=600)


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return start(sys.executable, ROOT / "scripts" / "bench_train.py", *arguments)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.slow
def test_each_kind_of_step_has_its_speed_and_its_profile(librispeech: Path) -> None:
    done = bench(TINY, "--data", librispeech, "--threads", 1, "--steps", 1, "--set", "adversarial.every = 1")
    assert done.returncode == 0, done.stderr
    head, _, *lines = done.stdout.splitlines()
    assert "threads 1, precision no; medians of 1 steps" in head
    assert "avx512_bf16" in head
    rows = [cells(line) for line in lines if line.startswith("|")]
    speeds, parts, operators = rows[2:4], rows[6:8], rows[10:12]
    for table in (speeds, parts, operators):
        assert [row[:3] for row in table] == [["tiny", "no", "none"], ["tiny", "no", "stft, period, band"]]
    without, judged = ([float(cell.rstrip("%")) for cell in row[3:]] for row in speeds)
    assert without[0] == judged[0] > 0 == without[1] < judged[1]  # parameters
    for _, _, milliseconds, speed, waiting, reading, share in (without, judged):
        # 8 crops of 0.5 s
        assert speed == pytest.approx(4e3 / milliseconds, rel=0.05)
        assert share == pytest.approx(1e2 * reading / milliseconds, rel=0.05, abs=0.1)
        assert 0 <= waiting < 100
    assert "discriminators, backward" in " ".join(parts[1])
    assert "discriminators" not in " ".join(parts[0][3:])
    for row in (*parts, *operators):
        assert sum(int(cell.split()[-1].rstrip("%")) for cell in row[3:]) == pytest.approx(100, abs=3)


@pytest.mark.slow
def test_what_cannot_be_measured_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "train-clean-100").mkdir()
    done = bench(TINY, "--data", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert str(tmp_path / "train-clean-100") in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_shell_script_tells_what_it_can_measure() -> None:
    script = ROOT / "scripts" / "bench"
    told, refused = start(script, "--help"), start(script, "nothing")
    assert (told.returncode, refused.returncode) == (0, 2)
    assert told.stdout == refused.stderr
    assert all(
        (ROOT / "scripts" / f"bench_{what}.py").exists() and what in told.stdout for what in ("quantize", "train")
    )
