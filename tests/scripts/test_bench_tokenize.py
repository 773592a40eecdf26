"""The benchmark of tokenizing, as it is started from a shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_all_ways_are_measured_side_by_side_on_speech_that_is_cut_into_files() -> None:
    command = [sys.executable, ROOT / "scripts" / "bench_tokenize.py", "--minutes", "0.3", "--readings", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    head, _, *table = done.stdout.splitlines()
    assert head.split(", ", 1)[1] == "0.3 minutes; medians of 1 readings"
    assert int(head.split()[0]) > 1
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert [row[0] for row in rows] == ["Codec.encode, 2 threads", "tokenize --jobs 1", "tokenize --jobs 2"]
    assert all(float(cell) > 0 for row in rows for cell in row[1:])
    assert rows[0][-1] == "1.00"
