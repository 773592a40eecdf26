import subprocess
import sys
from pathlib import Path

import pytest

from codec.train import memory
from codec.train.memory import keep_freed_memory

# In a process of its own, since what is set there cannot be taken back.
COUNT_PAGE_FAULTS = """
import resource, sys
from codec.train.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        b"x" * 2**26  # from half as much on, glibc never keeps memory by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
kept = keep_freed_memory()
faults()
print(kept, before, faults())
"""


def is_glibc():
    return sys.platform.startswith("linux") and hasattr(memory.ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not is_glibc(), reason="needs glibc")
def test_freed_memory_is_used_again_without_page_faults():
    done = subprocess.run(
        [sys.executable, "-c", COUNT_PAGE_FAULTS],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    kept, before, after = done.stdout.split()
    assert kept == "True"
    assert int(after) < int(before) / 10


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch, platform):
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    assert keep_freed_memory() is False


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False
