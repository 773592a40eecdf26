import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"


def test_damaged_and_lying_files_raise_nothing_but_bitstream_errors(fuzz):
    tally = fuzz.fuzz(10_000, traced=False)
    assert tally.count == 10_000
    # Files are neither all destroyed nor all left as they were.
    assert 1_000 < tally.accepted < 8_000
    # Some are 2 MB of marks, or 200 kB of end blocks in end blocks: minutes for a reader that takes them at their word.
    assert tally.slowest[0] < 30


def test_and_take_little_memory(fuzz):
    # Headers and chunks claim up to exabytes. A block may have 5 MB, and a chunk of 2 ** 20 codes takes 50 MB.
    tally = fuzz.fuzz(500, first=10_000)
    assert 1e6 < tally.peak[0] < 60e6


def test_a_number_of_each_field_of_the_header_is_changed(fuzz):
    files = fuzz.real_files(fuzz.tiny_tables())
    fields = set()
    for number in range(600):
        random = fuzz.Random(number)
        data = files[number % 8]
        old, new = data, fuzz.lie_in_header(data, random)
        fields |= {(data[4], place) for place in range(10 + 54 if data[4] == 2 else 43) if old[place] != new[place]}
    assert {place for version, place in fields if version == 2} == set(range(10, 64))
    assert {place for version, place in fields if version == 1} == set(range(6, 43))


def test_random_bytes_are_no_files(fuzz):
    random, tables = fuzz.Random(0), fuzz.tiny_tables()
    for _ in range(1_000):
        assert not fuzz.read(random.randbytes(random.randrange(500)), tables, random)


def test_each_damage_changes_files_and_each_number_makes_one_case(fuzz):
    files = fuzz.real_files(fuzz.tiny_tables())
    for damage in fuzz.DAMAGES + fuzz.SLOW:
        assert sum(damage(data, fuzz.Random(0)) != data for data in files) >= len(files) - 1
    assert fuzz.make_case(files, 7)[0] == fuzz.make_case(files, 7)[0] != fuzz.make_case(files, 8)[0]


def test_files_are_taken_apart_and_put_together_again(fuzz):
    for data in fuzz.real_files(fuzz.tiny_tables()):
        assert fuzz.join(fuzz.split(data), data[4]) == data
        assert len(fuzz.split(data)) >= 3


def test_what_fuzzing_must_not_find_is_found(fuzz, monkeypatch):
    def fail(*_):
        raise ValueError("as a reader that does not check")

    monkeypatch.setattr(fuzz, "verify", fail)
    with pytest.raises(RuntimeError, match=r"^case \d+ failed$"):
        fuzz.fuzz(50, traced=False)


def test_the_script_says_how_many_files_it_read():
    command = [sys.executable, SCRIPT, "--count", "20", "--first", "5"]
    done = subprocess.run(
        command, cwd=SCRIPT.parents[1], env={"PYTHONPATH": str(SCRIPT.parents[1])}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    line = r"20 files: (\d+) accepted, (\d+) refused; slowest \d+ ms \(case \d+\), peak memory \d+ kB \(case \d+\)\n"
    accepted, refused = re.fullmatch(line, done.stdout.decode()).groups()
    assert int(accepted) + int(refused) == 20


def test_a_chunk_may_claim_no_more_codes_than_memory_allows(fuzz):
    # The largest chunk there can be, and what it takes to read it.
    header = fuzz.Header("tiny", "0" * 16, 16_000, 1, 320, 16, 1, 1 << 16, 1 << 16)
    data = fuzz.write_version_1(fuzz.Stream(header, np.zeros((1, 16, 1 << 16), dtype=np.int64)))
    fuzz.tracemalloc.start()
    fuzz.read_stream(data)
    peak = fuzz.tracemalloc.get_traced_memory()[1]
    fuzz.tracemalloc.stop()
    assert peak < 100e6
