import os

import pytest

from codec.corpora import spool as module
from codec.corpora.spool import Spool

CELLS = [{"bytes": b"one", "path": None}, None, {"bytes": None, "path": "a.wav"}, {"bytes": b"", "path": "b"}]


class Groups:
    """Groups that count how often each was asked for."""

    def __init__(self, **cells):
        self.cells = cells
        self.asked = []

    def read(self, spool, group, row):
        return spool.read(group, row, lambda: (self.asked.append(group), self.cells[group])[1])


def test_cells_are_given_as_they_are_in_any_order():
    groups, spool = Groups(a=CELLS), Spool(1000)
    for row in (3, 1, 0, 2, 0):
        assert groups.read(spool, "a", row) == CELLS[row]
    assert groups.asked == ["a"]


def test_groups_that_were_read_longest_ago_are_forgotten_beyond_the_limit():
    groups, spool = Groups(a=[{"bytes": bytes(40), "path": None}] * 2, b=CELLS, c=CELLS), Spool(83)
    for group in "abacab":
        groups.read(spool, group, 0)
    assert groups.asked == ["a", "b", "c", "b"]


def test_a_group_beyond_the_limit_is_kept_alone():
    groups, spool = Groups(a=CELLS, b=CELLS), Spool(0)
    for group in "aabba":
        assert groups.read(spool, group, 0) == CELLS[0]
    assert groups.asked == ["a", "b", "a"]


def test_no_more_files_are_open_than_groups_are_kept(monkeypatch):
    monkeypatch.setattr(module, "MAX_GROUPS", 3)
    before = len(os.listdir("/proc/self/fd"))
    groups, spool = Groups(**dict.fromkeys("abcdefgh", CELLS)), Spool(1000)
    for group in "abcdefgh":
        groups.read(spool, group, 0)
    assert len(os.listdir("/proc/self/fd")) == before + 3


def test_a_group_that_cannot_be_read_leaves_nothing():
    def fail():
        yield CELLS[0]
        raise OSError("gone")

    before, spool = os.listdir("/proc/self/fd"), Spool(1000)
    for _ in range(2):
        with pytest.raises(OSError, match=r"^gone$"):
            spool.read("a", 0, fail)
    assert os.listdir("/proc/self/fd") == before
    assert spool.read("a", 0, lambda: CELLS) == CELLS[0]
