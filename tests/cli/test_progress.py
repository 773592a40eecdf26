import os
import pty
import re
import threading

from codec.cli.files import FileTask
from codec.cli.progress import show_progress

SHOW = """
import sys, time
from pathlib import Path
from codec.cli.files import FileTask
from codec.cli.progress import show_progress
tasks = [FileTask(Path(name), None) for name in sys.argv[1:]]
with show_progress(tasks, wanted=True) as advance:
    time.sleep(0.1)
    advance(tasks[0], 3.0, 6.0)
    time.sleep(0.3)
    print("a message", file=sys.stderr)
    advance(tasks[0], 3.0, 6.0)
    advance(tasks[0], 0.0, None)
    time.sleep(0.3)
    advance(tasks[1], 0.0, None)
    time.sleep(0.3)
"""


def read_all(descriptor, parts):
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except OSError:  # the other end is closed
            return
        parts.append(part)


def test_a_terminal_shows_the_share_of_bytes_the_speed_and_messages_above(tmp_path, start_python):
    (tmp_path / "a").write_bytes(bytes(600))
    (tmp_path / "b").write_bytes(bytes(400))
    ours, theirs = pty.openpty()
    parts = []
    reader = threading.Thread(target=read_all, args=(ours, parts))
    reader.start()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = start_python("-c", SHOW, tmp_path / "a", tmp_path / "b", stderr=theirs, env=environment)
    assert process.wait(timeout=300) == 0
    os.close(theirs)
    reader.join()
    os.close(ours)
    shown = b"".join(parts).decode()
    assert [share for share in ("0%", "30%", "60%", "100%") if share not in shown] == []
    assert re.search(r"\d+\.\d times real time", shown)
    assert "a message" in shown


def test_a_file_of_unknown_length_takes_its_share_when_it_is_done(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(600))
    (tmp_path / "b").write_bytes(bytes(400))
    tasks = [FileTask(tmp_path / name, None) for name in "ab"]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with show_progress(tasks, wanted=True) as advance:
        bar = advance.__self__._progress.tasks[0]
        shown = []
        for seconds, whole in ((3.0, None), (3.0, None), (0.0, None)):
            advance(tasks[0], seconds, whole)
            shown.append(bar.completed)
    assert (shown, bar.total) == ([0, 0, 600], 1000)


def test_nothing_is_shown_without_a_terminal(tmp_path, capsys, monkeypatch):
    task = FileTask(tmp_path / "a", None)
    with show_progress([task], wanted=True) as advance:
        advance(task, 1.0, 2.0)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr", None)  # closed
    with show_progress([task], wanted=True) as advance:
        advance(task, 1.0, 2.0)
