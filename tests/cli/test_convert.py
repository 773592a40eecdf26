"""Many files in real processes: jobs, interrupts, full disks, and other commands on the same folder."""

import os
import re
import signal
import time
from functools import partial

import pytest
import soundfile
import typer

from codec.cli.convert import Converted, convert_files
from codec.cli.errors import CommandError
from codec.cli.files import FileTask
from codec.cli.log import Level, messages

# A shell that puts the tests in the background lets them ignore Ctrl-C, which the command would inherit.
CODEC = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from codec.cli.main import main; "
# Stands for a full disk, without the right to mount one.
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200)); "
TEN = """
import os, sys
import codec.audio, codec.transcode
from codec.cli.main import app
def work():
    try:
        app(sys.argv[1:], prog_name="codec")
    except SystemExit as end:
        os._exit(end.code)
children = [os.fork() or work() for _ in range(10)]
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.fixture
def folder(tmp_path, clips):
    """Three files of a quarter of a second each, and `codes` and `pipe`, which nobody writes into."""
    (tmp_path / "in").mkdir()
    for index, clip in enumerate(clips):
        samples, sample_rate = soundfile.read(clip, start=16_000, frames=4_000)
        soundfile.write(tmp_path / "in" / f"{index}.wav", samples, sample_rate)
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.fixture
def encoded(folder, model_folder, run):
    """The folder, with codes of all files in `codes`."""
    result = run("encode", folder / "in", "-o", folder / "codes", "--model", model_folder)
    assert result.exit_code == 0, result.output
    return folder


def work(results, task, report):
    result = results[task.source.name]
    if result == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(result, Exception):
        raise result
    return result


def setup(results):
    return partial(work, results)


def convert(folder, results, level=Level.INFO, **options):
    """Convert the files in `folder / "in"`, with what becomes of each."""
    tasks = [FileTask(path, folder / f"{path.stem}.out") for path in sorted((folder / "in").iterdir())]
    options = {"jobs": 1, "overwrite": False, "skip_existing": False, **options}
    with messages(level):
        convert_files(tasks, partial(setup, results), **options)


DONE = Converted(seconds=2.0, num_bytes=100)


def test_a_summary_of_several_files(folder, capsys):
    results = {"0.wav": DONE, "1.wav": Converted(3.0, 150, warnings=["is odd"]), "2.wav": Converted(skipped=True)}
    convert(folder, results)
    stdout, stderr = capsys.readouterr()
    warning, summary = stderr.splitlines()
    assert (stdout, warning) == ("", f"warning: {folder / 'in' / '1.wav'}: is odd")
    assert re.fullmatch(
        r"3 files: 2 done, 1 skipped, 0 failed; 5\.0 s of audio, 250 bytes, 400 bit/s, [\d.]+ times real time", summary
    )


def test_bytes_that_are_not_known_are_left_out(folder, capsys):
    convert(folder, {"0.wav": DONE, "1.wav": Converted(3.0, None), "2.wav": DONE})
    assert re.search(r"failed; 7\.0 s of audio, [\d.]+ times real time\n$", capsys.readouterr().err)


def test_one_bad_file_does_not_stop_the_others(folder, capsys):
    results = {"0.wav": CommandError("0.wav: no audio"), "1.wav": DONE, "2.wav": DONE}
    with pytest.raises(typer.Exit) as info:
        convert(folder, results)
    error, summary = capsys.readouterr().err.splitlines()
    assert (info.value.exit_code, error) == (1, "error: 0.wav: no audio")
    assert summary.startswith("3 files: 2 done, 0 skipped, 1 failed; 4.0 s of audio")


def test_a_bug_has_a_status_of_its_own(folder, capsys):
    results = {"0.wav": CommandError("0.wav: no audio"), "1.wav": ZeroDivisionError("by zero"), "2.wav": DONE}
    with pytest.raises(typer.Exit) as info:
        convert(folder, results)
    assert info.value.exit_code == 70
    line = (
        f"error: {folder / 'in' / '1.wav'}: internal error: ZeroDivisionError: by zero; --debug shows the traceback\n"
    )
    assert line in capsys.readouterr().err


def test_a_process_that_dies_fails_its_file_only(folder, capsys):
    with pytest.raises(typer.Exit) as info:
        convert(folder, {"0.wav": DONE, "1.wav": "killed", "2.wav": DONE}, jobs=2)
    assert info.value.exit_code == 1
    assert f"error: {folder / 'in' / '1.wav'}: the process that worked on it was ended" in capsys.readouterr().err


@pytest.mark.parametrize(("level", "count"), [(Level.DEBUG, 5), (Level.INFO, 3), (Level.WARNING, 2), (Level.ERROR, 1)])
def test_the_level_chooses_what_is_said(folder, capsys, level, count):
    results = {
        "0.wav": CommandError("bad"),
        "1.wav": Converted(3.0, 150, warnings=["is odd"]),
        "2.wav": Converted(skipped=True),
    }
    with pytest.raises(typer.Exit):
        convert(folder, results, level)
    assert len(capsys.readouterr().err.splitlines()) == count


def test_what_is_there_already_is_skipped_or_fails_before_a_model_is_loaded(folder, capsys):
    for index in range(3):
        (folder / f"{index}.out").touch()
    convert(folder, {}, skip_existing=True)
    assert capsys.readouterr().err == "3 files: 0 done, 3 skipped, 0 failed\n"
    with pytest.raises(typer.Exit):
        convert(folder, {})
    assert capsys.readouterr().err.count("exists already; pass --overwrite to replace it\n") == 3
    convert(folder, dict.fromkeys(["0.wav", "1.wav", "2.wav"], DONE), overwrite=True)


def test_several_processes_give_what_one_gives(encoded, model_folder, run_process):
    result = run_process("encode", encoded / "in", "-o", encoded / "more", "--model", model_folder, "-j", 2)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("3 files: 3 done, 0 skipped, 0 failed; 0.8 s of audio")
    for name in ("0.rvq", "1.rvq", "2.rvq"):
        assert (encoded / "more" / name).read_bytes() == (encoded / "codes" / name).read_bytes()


@pytest.mark.parametrize(
    ("command", "jobs", "number", "exit_code", "word"),
    [
        ("encode", 1, signal.SIGINT, 130, "interrupted"),
        ("encode", 2, signal.SIGTERM, 143, "terminated"),
        ("decode", 1, signal.SIGTERM, 143, "terminated"),
        ("decode", 2, signal.SIGINT, 130, "interrupted"),
    ],
)
def test_an_interrupt_leaves_whole_files_only(
    encoded, model_folder, start_python, command, jobs, number, exit_code, word
):
    """The third of three files comes from a pipe that nobody writes into, so the command waits for it."""
    inputs = ["in/0.wav", "in/1.wav"] if command == "encode" else ["codes/0.rvq", "codes/1.rvq"]
    arguments = [command, *(encoded / name for name in [*inputs, "pipe"]), "-o", encoded / "out", "-j", jobs]
    process = start_python("-c", f"{CODEC} main()", *arguments, "--model", model_folder, start_new_session=True)
    out = encoded / "out"
    deadline = time.monotonic() + 300
    while not (out.exists() and len(os.listdir(out)) == 3 and len(list(out.glob("?.*"))) == 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)

    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=300)

    assert (process.returncode, stdout) == (exit_code, "")
    # A file has its name a moment before it is counted.
    assert re.fullmatch(f"{word}: [12] of 3 files done\n", stderr)
    suffix = "rvq" if command == "encode" else "wav"
    assert sorted(os.listdir(out)) == [f"0.{suffix}", f"1.{suffix}"]
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.01)


@pytest.mark.parametrize(("command", "jobs"), [("encode", 2), ("decode", 1)])
def test_a_full_disk_leaves_nothing_and_is_named(encoded, model_folder, start_python, command, jobs):
    source, suffix = ("in", "rvq") if command == "encode" else ("codes", "wav")
    arguments = [command, encoded / source, "-o", encoded / "out", "--model", model_folder, "-j", jobs]
    process = start_python("-c", f"{FULL} {CODEC} main()", *arguments)
    _, stderr = process.communicate(timeout=300)
    *errors, summary = stderr.splitlines()
    assert (process.returncode, summary) == (1, "3 files: 0 done, 0 skipped, 3 failed")
    for index, error in enumerate(sorted(errors)):
        assert re.fullmatch(rf"error: {encoded}/out/{index}\.{suffix}: .*File too large\)?", error)
    assert os.listdir(encoded / "out") == []


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_a_full_standard_output_is_named(encoded, model_folder, start_python, command):
    source = encoded / ("in/0.wav" if command == "encode" else "codes/0.rvq")
    with open("/dev/full", "wb") as full:
        process = start_python("-m", "codec.cli.main", command, source, "-o", "-", "--model", model_folder, stdout=full)
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    assert re.fullmatch(r"error: standard output: .*No space left on device\)?\n", stderr)


@pytest.mark.slow
def test_ten_commands_on_one_folder_leave_each_file_once_and_whole(encoded, model_folder, start_python):
    arguments = ["encode", encoded / "in", "-o", encoded / "out", "--skip-existing", "--model", model_folder]
    process = start_python("-c", TEN, *arguments)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    counts = re.findall(r"3 files: (\d) done, (\d) skipped, 0 failed", stderr)
    assert len(counts) == 10
    assert sum(int(done) for done, _ in counts) == 3
    for name in ("0.rvq", "1.rvq", "2.rvq"):
        assert (encoded / "out" / name).read_bytes() == (encoded / "codes" / name).read_bytes()
    assert len(os.listdir(encoded / "out")) == 3


def test_a_killed_command_leaves_a_part_that_no_command_takes_for_a_file(encoded, model_folder, start_python, run):
    process = start_python(
        "-m", "codec.cli.main", "encode", encoded / "pipe", "-o", encoded / "a.rvq", "--model", model_folder
    )
    deadline = time.monotonic() + 300
    while not list(encoded.glob(".codec-*.part")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (encoded / "a.rvq").exists()
    result = run("decode", encoded, "-r", "-o", encoded / "out", "--model", model_folder)
    assert result.exit_code == 0, result.output
    assert "3 files: 3 done" in result.stderr
