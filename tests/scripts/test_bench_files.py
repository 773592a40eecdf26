"""The benchmark of long files, as it is started from a shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_MEGABYTES = 500


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_length():
    # As a whole, ten minutes take more. Without options the script measures three hours.
    command = [sys.executable, ROOT / "scripts" / "bench_files.py", "--minutes", "10"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[-2:]]
    assert [row[0] for row in rows] == ["encode", "decode"]
    for _, short_speed, long_speed, _, megabytes in rows:
        assert float(short_speed) > 1 < float(long_speed)
        assert 0 < float(megabytes) < MAX_MEGABYTES
