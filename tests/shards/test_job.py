import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from codec import Codec
from codec.corpora.find import find_recordings
from codec.shards import job as module
from codec.shards.job import finish_job, forget_errors, load_job, pending, plan_job, recordings_of, start_job
from codec.shards.plan import shard_offsets
from codec.shards.shard import make_shard


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.from_pretrained("speech_16khz")


@pytest.fixture(scope="module")
def recordings(librispeech):
    return find_recordings([librispeech])


@pytest.fixture
def job(codec, recordings):
    return plan_job(codec, recordings, num_quantizers=2, shard_size=3)


def test_a_job_is_read_as_it_was_planned(tmp_path, codec, recordings) -> None:
    options = {"pattern": "delay", "shared": True, "extras": ["speaker", "text"], "batch_seconds": 5.0}
    job = plan_job(codec, recordings, num_quantizers=2, shard_size=3, **options)
    start_job(tmp_path / "new" / "corpus", job, recordings)
    assert load_job(tmp_path / "new" / "corpus") == job
    assert (job.codec.model, job.codec.fingerprint) == (codec.name, codec.fingerprint())
    tokenizer = job.tokenizer()
    assert (tokenizer.num_quantizers, tokenizer.pattern, tokenizer.extras) == (2, "delay", ("speaker", "text"))
    assert tokenizer.fingerprint == codec.fingerprint()


def test_shards_hold_all_recordings_in_order(tmp_path, job, recordings) -> None:
    start_job(tmp_path, job, recordings)
    assert [job.size_of(index) for index in range(job.num_shards)] == [3, 3, 1]
    assert [each for index in range(job.num_shards) for each in recordings_of(tmp_path, index)] == recordings


def test_what_is_pending_is_what_has_no_record(tmp_path, job, recordings, codec) -> None:
    start_job(tmp_path, job, recordings)
    assert pending(tmp_path) == [0, 1, 2]
    make_shard(tmp_path, 1, codec)
    assert pending(tmp_path) == [0, 2]
    assert finish_job(tmp_path) is None
    make_shard(tmp_path, 0, codec)
    make_shard(tmp_path, 2, codec)
    manifest = finish_job(tmp_path)
    assert (manifest.clips, pending(tmp_path)) == (len(recordings), [])
    assert finish_job(tmp_path) == manifest


def test_a_shard_that_lacks_a_file_or_a_part_of_one_is_made_again(tmp_path, codec, librispeech) -> None:
    recordings = find_recordings([librispeech / "dev-clean"])
    start_job(tmp_path, plan_job(codec, recordings, num_quantizers=1), recordings)
    make_shard(tmp_path, 0, codec)
    whole = {path.name: path.read_bytes() for path in tmp_path.glob("shard-*")}
    assert len(whole) == 4
    for name in whole:
        for content in (None, whole[name][:-2]):
            (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
            assert pending(tmp_path) == [0]
            assert finish_job(tmp_path) is None
            make_shard(tmp_path, 0, codec)
            assert {path.name: path.read_bytes() for path in tmp_path.glob("shard-*")} == whole
            assert pending(tmp_path) == []


def test_while_a_shard_is_made_again_it_is_not_finished(tmp_path, job, recordings, codec, monkeypatch) -> None:
    start_job(tmp_path, job, recordings)
    make_shard(tmp_path, 0, codec)
    size = (tmp_path / "shard-00000.parquet").stat().st_size
    (tmp_path / "shard-00000.parquet").write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        make_shard(tmp_path, 0, codec, interrupt)
    (tmp_path / "shard-00000.parquet").write_bytes(bytes(size))
    assert pending(tmp_path, [0]) == [0]


def interrupt(count: int) -> None:
    raise KeyboardInterrupt


def test_shards_that_list_bad_recordings_are_forgotten_and_no_others(tmp_path, codec, librispeech) -> None:
    folder = shutil.copytree(librispeech / "train-clean-100", tmp_path / "corpus")
    recordings = find_recordings([folder])
    last = Path(recordings[-1].place.path)
    there = last.read_bytes()
    last.unlink()
    out = tmp_path / "out"
    start_job(out, plan_job(codec, recordings, num_quantizers=1, shard_size=2), recordings)
    for index in range(3):
        make_shard(out, index, codec)
    assert finish_job(out).errors == 1
    assert forget_errors(out, [0, 1]) == []
    assert (out / "manifest.json").exists()
    assert forget_errors(out, [0, 1, 2]) == [2]
    assert not (out / "manifest.json").exists()
    assert forget_errors(out, [0, 1, 2]) == []
    assert pending(out) == [2]
    last.write_bytes(there)
    make_shard(out, 2, codec)
    assert finish_job(out).errors == 0


def test_what_another_process_forgets_as_this_one_finishes_is_not_finished(
    tmp_path, job, recordings, codec, monkeypatch
) -> None:
    start_job(tmp_path, job, recordings)
    for index in range(3):
        make_shard(tmp_path, index, codec)
    finish = module.finish

    def forget_first(folder: Path) -> None:
        (folder / "shard-00001.json").unlink()
        finish(folder)

    monkeypatch.setattr(module, "finish", forget_first)
    assert finish_job(tmp_path) is None


def test_finishing_takes_away_what_killed_processes_left(tmp_path, job, recordings, codec) -> None:
    start_job(tmp_path, job, recordings)
    for index in range(3):
        make_shard(tmp_path, index, codec)
    (tmp_path / ".shard-00001.bin.0123.part").write_bytes(b"half")
    finish_job(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_whoever_loses_his_file_to_one_who_has_finished_finds_it_finished(
    tmp_path, job, recordings, codec, monkeypatch
) -> None:
    start_job(tmp_path, job, recordings)
    for index in range(3):
        make_shard(tmp_path, index, codec)
    manifest = finish_job(tmp_path)

    def lose(folder: Path) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("codec.shards.job.finish", lose)
    assert finish_job(tmp_path) == manifest
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError):
        finish_job(tmp_path)


def test_a_job_goes_on_with_the_same_plan_alone(tmp_path, job, recordings, codec) -> None:
    start_job(tmp_path, job, recordings)
    start_job(tmp_path, job, recordings)
    others = {
        "pattern was flatten, now delay": plan_job(codec, recordings, num_quantizers=2, shard_size=3, pattern="delay"),
        "num_quantizers was 2, now 3; shard_size was 3, now 4": plan_job(
            codec, recordings, num_quantizers=3, shard_size=4
        ),
        "fingerprint was .*, now 0123": replace(job, codec=replace(job.codec, fingerprint="0123")),
        "beam_size was .*, now 7": replace(job, codec=replace(job.codec, beam_size=7)),
    }
    for message, other in others.items():
        with pytest.raises(ValueError, match=f"holds another job: {message}. Go on with the same"):
            start_job(tmp_path, other, recordings)


def test_of_jobs_that_begin_at_once_the_first_one_stays(tmp_path, job, recordings, codec, monkeypatch) -> None:
    create = module.create_whole

    def be_second(path: Path, content: bytes) -> None:
        create(path, content.replace(b"flatten", b"delay"))
        create(path, content)

    monkeypatch.setattr(module, "create_whole", be_second)
    with pytest.raises(ValueError, match="holds another job: pattern was delay, now flatten"):
        start_job(tmp_path, job, recordings)
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_a_plan_that_is_not_that_of_the_job_any_more_is_refused(tmp_path, job, recordings) -> None:
    start_job(tmp_path, job, recordings)
    plan = (tmp_path / "plan.jsonl").read_bytes()
    (tmp_path / "plan.jsonl").write_bytes(plan.replace(b"null", b"nul", 1))
    shard_offsets.cache_clear()
    for use in (lambda: start_job(tmp_path, job, recordings), lambda: recordings_of(tmp_path, 0)):
        with pytest.raises(ValueError, match=r"plan.jsonl: must be the plan of the job"):
            use()
    (tmp_path / "plan.jsonl").unlink()
    start_job(tmp_path, job, recordings)
    assert (tmp_path / "plan.jsonl").read_bytes() == plan


@pytest.mark.parametrize("plan_is_there", [True, False])
def test_another_input_is_told_by_its_first_difference(tmp_path, job, recordings, codec, plan_is_there) -> None:
    start_job(tmp_path, job, recordings)
    if not plan_is_there:  # killed between the two files
        (tmp_path / "plan.jsonl").unlink()
    last = replace(recordings[-1], transcript="another")
    difference = f"recording 7 was {last.id}, transcript None, now {last.id}, transcript another"
    for others, expected in (
        ([*recordings[:-1], last], difference),
        (recordings[:-1], f"recording 7 was {last.id}, now none"),
    ):
        with pytest.raises(ValueError, match=expected if plan_is_there else "the recordings were others"):
            start_job(tmp_path, plan_job(codec, others, num_quantizers=2, shard_size=3), others)


def test_a_plan_that_was_not_written_any_more_is_written(tmp_path, job, recordings) -> None:
    start_job(tmp_path, job, recordings)
    plan = (tmp_path / "plan.jsonl").read_bytes()
    (tmp_path / "plan.jsonl").unlink()
    start_job(tmp_path, job, recordings)
    assert (tmp_path / "plan.jsonl").read_bytes() == plan


def test_a_folder_with_something_else_is_refused(tmp_path, job, recordings) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match=r"must be empty or hold a job begun earlier; got holiday.jpg and no job.json"):
        start_job(tmp_path, job, recordings)


def test_settings_out_of_range_are_refused_before_anything_is_written(codec, recordings) -> None:
    for options, message in (
        ({"num_quantizers": 21}, "num_quantizers must be from 1 to 20; got 21"),
        ({"shard_size": 0}, "shard_size must be positive and finite; got 0"),
        ({"batch_seconds": 0.0}, "batch_seconds must be positive and finite; got 0"),
        ({"batch_seconds": math.inf}, "batch_seconds must be positive and finite; got inf"),
        ({"batch_seconds": math.nan}, "batch_seconds must be positive and finite; got nan"),
        ({"pattern": "delayed"}, "delay"),
    ):
        with pytest.raises(ValueError, match=message):
            plan_job(codec, recordings, **options)
    with pytest.raises(ValueError, match="num_recordings must be positive and finite; got 0"):
        plan_job(codec, [])


def test_a_damaged_job_is_told(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"holds no job.json; codec tokenize begins a corpus with one"):
        load_job(tmp_path)
    for content in (b"{}", b"[]", b"\xff"):
        (tmp_path / "job.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"job.json: not a job: "):
            load_job(tmp_path)
