"""That codes are right is tested with the shards; here, that they are the same whoever makes them, whenever killed."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import soundfile
from typer.testing import CliRunner

from codec.cli.main import app
from codec.shards import CodesFiles, plan, shard
from codec.shards.shard import make_shard

PATIENCE = 300.0
NUM_SHARDS = 4

# Does the work in a child that is killed as it puts the first of these files in its place, before or after it has; then
# in another one, which goes on from there, and is killed as it puts the second; and so on; at last, one that is not.
# They are forked from an interpreter that has imported what takes long, and begun no threads, which a fork would not
# copy.
KILL_EVERYWHERE = """
import os, signal, sys
from pathlib import Path
import pandas, pyarrow.parquet, torch
import codec.corpora.find, codec.shards.shard
from codec.cli.main import app

torch.set_num_threads(1)
names, *arguments = sys.argv[1:]


def kill_at(name, before):
    def killing(put):
        def put_or_die(*paths):
            meant = name in [path.name for path in paths]
            if meant and before:
                os.kill(os.getpid(), signal.SIGKILL)
            put(*paths)
            if meant:
                os.kill(os.getpid(), signal.SIGKILL)

        return put_or_die

    Path.replace, Path.hardlink_to = map(killing, (Path.replace, Path.hardlink_to))


for number, name in enumerate([*names.split(), None]):
    child = os.fork()
    if not child:
        kill_at(name, before=number % 2)
        try:
            app(["tokenize", *arguments], standalone_mode=False)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (0 if name is None else -signal.SIGKILL), (name, status)
"""


@pytest.fixture(scope="module")
def corpus(clips, tmp_path_factory) -> Path:
    """Seven recordings of real speech, and one that is none."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(7):
        samples, rate = soundfile.read(clips[number % 3], start=4_000 * number, frames=8_000 + 999 * number)
        soundfile.write(folder / f"{number}.flac", samples, rate)
    (folder / "bad.wav").write_text("Dear Sir or Madam")
    return folder


@pytest.fixture(scope="module")
def arguments(corpus, model_folder) -> list[str]:
    return [str(corpus), "--model", str(model_folder), "--shard-size", "2", "--stages", "4", "--pattern", "delay"]


@pytest.fixture(scope="module")
def uninterrupted(arguments, tmp_path_factory) -> Path:
    """What one process makes from beginning to end."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "tokens"
    result = CliRunner().invoke(app, ["tokenize", *arguments, "-o", str(folder), "--jobs", "1"])
    assert result.exit_code == 0, result.output
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_that_can_be_read_is_there_and_the_rest_is_listed(uninterrupted, run) -> None:
    codes = CodesFiles(uninterrupted)
    assert [len(each) for each in codes] == [4] * 7
    (error,) = map(json.loads, (uninterrupted / "errors.jsonl").read_text().splitlines())
    assert (error["id"], error["problem"]) == ("bad", "not readable as audio (Format not recognised)")
    result = run("tokenize", "--verify", uninterrupted)
    assert result.exit_code == 0
    assert "whole: 7 recordings" in result.output


def test_the_end_is_summed_up(arguments, run, tmp_path) -> None:
    result = run("tokenize", *arguments, "-o", tmp_path / "tokens", "--jobs", "1")
    assert result.exit_code == 0
    assert "4 shards done, " in result.stderr
    assert f"warning: bad recordings: 1 of 8, listed in {tmp_path / 'tokens' / 'errors.jsonl'}" in result.stderr
    assert "7 recordings, 0.00 h, in 4 shards" in result.stderr


def test_that_nothing_could_be_read_is_an_error(model_folder, run, tmp_path) -> None:
    (tmp_path / "bad.wav").write_text("Dear Sir or Madam")
    result = run("tokenize", tmp_path, "-o", tmp_path / "tokens", "--model", model_folder, "--jobs", "1")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith("tokens: holds nothing: no recording of the input could be read")


def test_two_ranks_make_what_one_makes(arguments, uninterrupted, start_python, tmp_path) -> None:
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    rest = [*arguments, "-o", tmp_path / "tokens", "--jobs", "1"]
    process = start_python(*launch, "-m", "codec.cli", "-v", "tokenize", *rest)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    assert stderr.count(f"2 of {NUM_SHARDS} shards to make") == 2
    assert contents(tmp_path / "tokens") == contents(uninterrupted)


def test_killed_at_any_file_it_goes_on(arguments, start_python, run, tmp_path) -> None:
    arguments = [*arguments, "--jobs", "1", "--shard-size", "4"]
    assert run("tokenize", *arguments, "-o", tmp_path / "whole").exit_code == 0
    shards = [f"shard-0000{index}.{suffix}" for index in range(2) for suffix in ("parquet", "bin", "idx", "json")]
    last = ["codec_tokenizer.json", "errors.jsonl", "README.md", "manifest.json"]
    names = ["job.json", "plan.jsonl", *shards, *last]
    assert sorted(names) == sorted(contents(tmp_path / "whole"))
    process = start_python("-c", KILL_EVERYWHERE, " ".join(names), *arguments, "-o", tmp_path / "killed")
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_killed_with_two_workers_at_work_two_others_go_on_and_make_what_one_makes(
    arguments, uninterrupted, start_python, run, tmp_path
) -> None:
    folder = tmp_path / "tokens"
    process = start_python("-m", "codec.cli", "tokenize", *arguments, "-o", folder, "--jobs", "2")
    deadline = time.monotonic() + PATIENCE
    while not list(folder.glob("*shard-*")):  # also of half-written files
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = run("tokenize", *arguments, "-o", folder, "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert contents(folder) == contents(uninterrupted)


@pytest.fixture
def start_on_ray(start_python) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command on a cluster of its own, which keeps its files where paths are short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as scratch:
        environment = {**os.environ, "RAY_TMPDIR": scratch, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
        command = ["-m", "codec.cli", "tokenize", "--ray", "local", "--jobs", "1"]
        yield lambda *arguments: start_python(*command, *arguments, env=environment)


def workers_that_began(process: subprocess.Popen[str], folder: Path) -> list[psutil.Process]:
    """The processes that make shards, as soon as a file of one, however short, is there."""
    workers: list[psutil.Process] = []
    deadline = time.monotonic() + PATIENCE
    while not list(folder.glob("*shard-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        children = psutil.Process(process.pid).children(recursive=True)
        with suppress(psutil.NoSuchProcess):
            workers = [child for child in children if any("MapWorker" in word for word in child.cmdline())]
    return workers


@pytest.mark.slow
def test_on_ray_a_worker_killed_in_the_middle_costs_no_recording(
    arguments, uninterrupted, start_on_ray, tmp_path
) -> None:
    folder = tmp_path / "tokens"
    process = start_on_ray(*arguments, "-o", folder)
    workers = workers_that_began(process, folder)
    for worker in workers:
        worker.kill()
    assert workers
    assert not (folder / "manifest.json").exists()
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    assert stdout == ""
    done, bad, whole = stderr.splitlines()
    assert done.startswith("4 shards done, ")
    assert bad.startswith("warning: bad recordings: 1 of 8")
    assert whole.startswith(f"{folder}: 7 recordings")
    assert contents(folder) == contents(uninterrupted)


def test_finished_shards_are_kept(arguments, uninterrupted, run, tmp_path) -> None:
    folder = shutil.copytree(uninterrupted, tmp_path / "tokens")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    for name in ("shard-00002.json", "manifest.json"):
        (folder / name).unlink()
    result = run("-v", "tokenize", *arguments, "-o", folder)
    assert result.exit_code == 0, result.output
    assert "1 of 4 shards to make" in result.stderr
    assert contents(folder) == contents(uninterrupted)
    changed = {path.stem for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"shard-00002"}


def test_bad_recordings_are_tried_again_if_that_is_asked_for(arguments, corpus, run, tmp_path) -> None:
    source = shutil.copytree(corpus, tmp_path / "corpus")
    folder = tmp_path / "tokens"
    arguments = [source, *arguments[1:], "-o", folder, "--jobs", "1"]
    assert run("tokenize", *arguments).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    shutil.copy(source / "6.flac", source / "bad.wav")
    result = run("tokenize", *arguments)
    first, bad, _ = result.stderr.splitlines()
    assert first == f"{folder}: was finished already"
    assert bad.endswith(f"bad recordings: 1 of 8, listed in {folder}/errors.jsonl; --retry-errors tries them again")
    assert {path: path.stat().st_mtime_ns for path in folder.glob("shard-*")} == before
    result = run("tokenize", *arguments, "--retry-errors")
    assert result.exit_code == 0
    first, whole = result.stderr.splitlines()
    assert first.startswith("1 shards done, ")
    assert whole.startswith(f"{folder}: 8 recordings")
    changed = {path.stem for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"shard-00003"}
    assert run("tokenize", "--verify", folder).exit_code == 0


def test_an_input_that_is_away_for_a_while_is_not_a_bad_one(arguments, corpus, run, tmp_path, monkeypatch) -> None:
    source = shutil.copytree(corpus, tmp_path / "corpus")
    arguments = [source, *arguments[1:], "-o", tmp_path / "tokens", "--jobs", "1"]

    def take_away(folder, index, *others, **options):
        if index == 1:
            source.rename(tmp_path / "away")
        return make_shard(folder, index, *others, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shard, "make_shard", take_away)
        result = run("tokenize", *arguments)
    assert result.exit_code == 1
    assert "error: shard 1: none of its 2 recordings can be read, the first of them " in result.stderr
    assert "shards failed: 3; the same command tries again" in result.stderr
    (tmp_path / "away").rename(source)
    result = run("tokenize", *arguments)
    assert result.exit_code == 0
    assert "bad recordings: 1 of 8" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no disk that is full")
def test_a_disk_that_is_full_stops_it(arguments, uninterrupted, run, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "tokens"
    folder.mkdir()
    for number in (1, 3):
        (folder / f".shard-0000{number}.parquet.0.part").symlink_to("/dev/full")
    with monkeypatch.context() as patch:
        patch.setattr(secrets, "token_hex", lambda size: "0")
        result = run("tokenize", *arguments, "-o", folder, "--jobs", "1")
    assert result.exit_code == 1
    last = f"No space left on device: '{folder}/shard-00001.parquet'; 1 of 4 shards done; the same command goes on"
    assert result.stderr.splitlines()[-1].endswith(last)
    assert sorted(path.stem for path in folder.glob("shard-*.json")) == ["shard-00000"]
    assert not list(folder.glob("shard-00002.*"))
    assert run("tokenize", *arguments, "-o", folder, "--jobs", "1").exit_code == 0
    assert contents(folder) == contents(uninterrupted)


def test_a_damaged_plan_is_told_in_a_line(arguments, uninterrupted, run, tmp_path, monkeypatch) -> None:
    def damage(folder, *others, **options):
        (folder / "plan.jsonl").write_text("{}")
        plan.shard_offsets.cache_clear()
        return make_shard(folder, *others, **options)

    folder = tmp_path / "tokens"
    monkeypatch.setattr(shard, "make_shard", damage)
    for start in ("error: shard 0: ", "error: "):  # damaged while it runs, and before
        result = run("tokenize", *arguments, "-o", folder, "--jobs", "1")
        assert result.exit_code == 1
        assert f"{start}{folder}/plan.jsonl: must be the plan of the job, with the SHA-256 " in result.stderr


def test_another_job_in_the_same_folder_is_refused(arguments, uninterrupted, run) -> None:
    before = contents(uninterrupted)
    result = run("tokenize", *arguments, "-o", uninterrupted, "--shared")
    assert result.exit_code == 1
    assert "holds another job: shared was False, now True" in result.stderr
    assert contents(uninterrupted) == before


def test_a_changed_file_is_found_and_made_again(arguments, uninterrupted, run, tmp_path) -> None:
    folder = shutil.copytree(uninterrupted, tmp_path / "tokens")
    content = bytearray((folder / "shard-00001.bin").read_bytes())
    content[-1] ^= 1
    (folder / "shard-00001.bin").write_bytes(content)
    result = run("tokenize", "--verify", folder)
    assert result.exit_code == 1
    change, advice = result.stderr.splitlines()
    assert f"{folder}/shard-00001.bin: has changed" in change
    assert advice.endswith(f"to mend it: delete shard-00001.json in {folder}, and give the command that made it again")
    (folder / "shard-00001.json").unlink()
    assert run("tokenize", *arguments, "-o", folder, "--jobs", "1").exit_code == 0
    assert contents(folder) == contents(uninterrupted)


def test_a_shard_that_cannot_be_written_does_not_stop_the_others(arguments, uninterrupted, run, tmp_path) -> None:
    folder = tmp_path / "tokens"
    (folder / "shard-00001.parquet").mkdir(parents=True)
    for name in ("job.json", "plan.jsonl"):
        shutil.copy(uninterrupted / name, folder)
    result = run("tokenize", *arguments, "-o", folder, "--jobs", "1")
    assert result.exit_code == 1
    assert "error: shard 1: " in result.stderr
    assert "shards failed: 1; the same command tries again" in result.stderr
    (folder / "shard-00001.parquet").rmdir()
    assert run("tokenize", *arguments, "-o", folder, "--jobs", "1").exit_code == 0
    assert contents(folder) == contents(uninterrupted)


def test_interrupted_it_says_how_far_it_came(arguments, run, tmp_path, monkeypatch) -> None:
    def interrupted(folder, index, *others, **options):
        if index == 2:
            signal.raise_signal(signal.SIGINT)
        return make_shard(folder, index, *others, **options)

    monkeypatch.setattr(shard, "make_shard", interrupted)
    result = run("tokenize", *arguments, "-o", tmp_path, "--jobs", "1")
    assert result.exit_code == 130
    assert "interrupted: 2 of 4 shards done; the same command goes on" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "INPUT and --output FOLDER must be given"),
        (["corpus"], "INPUT and --output FOLDER must be given"),
        (["corpus", "-o", "x", "--stages", "1", "--bitrate", "6k"], "--bitrate and --stages exclude each other"),
        (["corpus", "--verify", "x"], "--verify takes its folder alone"),
        (["corpus", "-o", "x", "--ray", "auto", "--device", "cuda:1"], "--device must be cpu or cuda on a Ray cluster"),
    ],
)
def test_wrong_usage_is_told(run, arguments, message) -> None:
    result = run("tokenize", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stages", "11"], "error: stages must be 1 to 10"),
        (["--pattern", "delayed"], "delay"),
        (["--batch-seconds", "inf"], "error: batch_seconds must be positive and finite; got inf"),
        (["--device", "abacus"], "error: device must be cpu, cuda, cuda:N or mps; got 'abacus'"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_written(
    run, corpus, model_folder, tmp_path, options, message
) -> None:
    result = run("tokenize", corpus, "--model", model_folder, "-o", tmp_path / "tokens", *options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "tokens").exists()
