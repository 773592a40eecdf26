import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from codec.audio import read_audio
from codec.corpora.find import find_recordings
from codec.corpora.place import File


def test_a_corpus_in_any_form_gives_the_same_audio_speakers_and_transcripts(
    tmp_path, clips, write_tar, make_dataset, datasets
):
    data, speakers = [clip.read_bytes() for clip in clips], [clip.stem.split("-")[0] for clip in clips]
    texts = ["one", "two", "three"]
    dataset = make_dataset(data, speaker=speakers, sentence=texts)
    dataset.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(a=dataset.select([0]), b=dataset.select([1, 2])).save_to_disk(tmp_path / "splits")
    for number in range(3):
        dataset.select([number]).to_parquet(tmp_path / f"parquet/data/{number}.parquet")
        members = [(f"{number}.flac", data[number]), (f"{number}.txt", texts[number].encode())]
        write_tar(f"tar/{number}.tar", [*members, (f"{number}.json", f'{{"speaker": {speakers[number]}}}'.encode())])
        folder = tmp_path / "folder" / speakers[number]
        folder.mkdir(parents=True)
        shutil.copy(clips[number], folder / "a.flac")
        (folder / "a.trans.txt").write_text(f"a {texts[number]}\n")
    lines = [f"{clip}\t3\t{who}\t{text}\n" for clip, who, text in zip(clips, speakers, texts, strict=True)]
    (tmp_path / "list.tsv").write_text("path\tduration\tspeaker\ttranscript\n" + "".join(lines))
    wanted = [read_audio(clip).waveform for clip in clips]
    for form in ("saved", "splits", "parquet", "tar", "folder", "list.tsv"):
        recordings = find_recordings([tmp_path / form])
        assert [(one.speaker, one.transcript) for one in recordings] == list(zip(speakers, texts, strict=True)), form
        assert recordings == find_recordings([tmp_path / form])
        for recording, waveform in zip(recordings, wanted, strict=True):
            with recording.open() as source:
                assert torch.equal(source.read_all(), waveform)


def test_ids_of_shards_begin_with_the_shard(tmp_path, write_tar, make_dataset, datasets):
    for shard in "ba":
        write_tar(f"tar/{shard}.tar", [("0.flac", b"1")])
        make_dataset([b"1"]).to_parquet(tmp_path / f"tables/data/{shard}.parquet")
    datasets.DatasetDict(b=make_dataset([b"1"]), a=make_dataset([b"2"])).save_to_disk(tmp_path / "splits")
    assert [one.id for one in find_recordings([tmp_path / "tar"])] == ["a/0", "b/0"]
    assert [one.id for one in find_recordings([tmp_path / "tables"])] == ["data/a/0", "data/b/0"]
    assert [one.id for one in find_recordings([tmp_path / "splits"])] == ["splits/b/0", "splits/a/0"]
    assert [one.id for one in find_recordings([tmp_path / "tar/b.tar"])] == ["b/0"]


def test_a_manifest_is_believed_and_keeps_its_order(tmp_path):
    (tmp_path / "list.jsonl").write_text(
        '{"path": "b/c.d.wav", "duration": 1, "id": "mine", "speaker": 3, "transcript": "go"}\n'
        '{"path": "b/c.d.wav", "duration": 1}\n{"path": "/a.wav", "duration": 1}\n'
    )
    first, second, third = find_recordings([tmp_path / "list.jsonl"])
    assert (first.id, first.speaker, first.transcript) == ("mine", "3", "go")
    assert (second.id, second.speaker, second.transcript) == ("b/c.d", None, None)
    assert second.place == File(str(tmp_path / "b/c.d.wav"))
    assert (third.id, third.source, third.place) == ("a", "/a.wav", File("/a.wav"))


def test_several_inputs_follow_each_other_unless_their_ids_clash(tmp_path):
    for name in ("x/a.wav", "y/b.wav", "y/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    message = f"ids must be unique; x/a.wav (of {tmp_path}/x) and y/a.wav (of {tmp_path}/y) both have 'a'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}: a folder above both, given in place of them, tells"):
        find_recordings([tmp_path / "x", tmp_path / "y"])
    with pytest.raises(
        ValueError, match=f"^inputs must be given once; got {re.escape(str(tmp_path))}/x several times$"
    ):
        find_recordings([tmp_path / "x", tmp_path / "y/../x"])
    assert [one.id for one in find_recordings([tmp_path])] == ["x/a", "y/a", "y/b"]
    (tmp_path / "y/a.wav").unlink()
    assert [one.id for one in find_recordings([tmp_path / "y", tmp_path / "x"])] == ["b", "a"]


def test_damaged_shards_do_not_hide_the_others(tmp_path, write_tar, make_dataset):
    write_tar("tar/b.tar", [("0.flac", b"1")])
    (tmp_path / "tar/a.tar").touch()
    make_dataset([b"1"]).to_parquet(tmp_path / "tables/b.parquet")
    (tmp_path / "tables/a.parquet").touch()
    (tmp_path / "tar/c.tar").symlink_to("nowhere")
    (tmp_path / "tables/c.parquet").symlink_to("nowhere")
    for folder in ("tar", "tables"):
        assert [one.id for one in find_recordings([tmp_path / folder])] == ["a", "b/0", "c"]
        assert [one.id for one in find_recordings(sorted((tmp_path / folder).glob("[ab].*")))] == ["a", "b/0"]


def test_ids_that_clash_are_told_with_what_helps(tmp_path, write_tar, make_dataset):
    def refused(*inputs):
        with pytest.raises(ValueError, match=r"^ids must be unique; ") as raised:
            find_recordings([tmp_path / name for name in inputs])
        return str(raised.value).removeprefix("ids must be unique; ").replace(str(tmp_path), "")

    (tmp_path / "list.jsonl").write_text('{"path": "a.wav"}\n' * 2)
    assert refused("list.jsonl").endswith("a.wav both have 'a': a column id in list.jsonl tells them apart")
    for name in "pq":
        write_tar(f"{name}/x.tar", [("0.flac", b"1")])
        make_dataset([b"1"]).save_to_disk(tmp_path / name / "saved")
    message = "x.tar:0.flac (of /p/x.tar) and x.tar:0.flac (of /q/x.tar) both have 'x/0': a folder above both"
    assert refused("p/x.tar", "q/x.tar").startswith(message)
    message = "saved[0] (of /p/saved) and saved[0] (of /q/saved) both have 'saved/0': rename one of them"
    assert refused("p/saved", "q/saved") == message


@pytest.fixture
def mix(tmp_path, write_tar, make_dataset, clips):
    """Make a folder of some of: audio, a shard, tables of audio, of paths to the audio, and of no audio."""

    def mix(*kinds):
        folder = tmp_path / "-".join(kinds)
        (folder / "sub").mkdir(parents=True)
        for kind in kinds:
            if kind in ("a.flac", "b.flac"):
                shutil.copy(clips[0], folder / "sub" / kind)
            elif kind == "x.tar":
                write_tar(f"{folder.name}/{kind}", [("0.flac", b"1")])
            elif kind == "sub/paths.parquet":
                audio = [{"bytes": None, "path": path} for path in ("a.flac", str(folder / "sub/b.flac"))]
                pq.write_table(pa.table({"audio": audio, "id": [7, 8], "text": ["go", "on"]}), folder / kind)
            elif kind == "bytes.parquet":
                make_dataset([b"1"]).to_parquet(folder / kind)
            elif kind == "about.parquet":
                pq.write_table(pa.table({"file_name": ["a.flac"]}), folder / kind)
            else:
                (folder / kind).write_text("{}")
        return folder

    return mix


@pytest.mark.parametrize(
    ("kinds", "held"),
    [
        (["a.flac", "x.tar"], ".tar (x.tar) and audio (sub/a.flac)"),
        (["x.tar", "bytes.parquet"], ".parquet (bytes.parquet) and .tar (x.tar)"),
        (["a.flac", "bytes.parquet"], ".parquet (bytes.parquet) and audio (sub/a.flac)"),
        (["a.flac", "broken.parquet"], ".parquet (broken.parquet) and audio (sub/a.flac)"),
        (["a.flac", "b.flac", "c.wav", "sub/paths.parquet"], ".parquet (sub/paths.parquet) and audio (c.wav)"),
    ],
)
def test_a_folder_of_several_kinds_is_refused_before_any_of_them_is_lost(mix, kinds, held):
    folder = mix(*kinds)
    message = f"{folder} must hold recordings of one kind; it holds {held}: give the one that you mean"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        find_recordings([folder])


def test_a_table_of_the_audio_beside_it_counts_and_not_the_audio(mix, clips):
    recordings = find_recordings([mix("a.flac", "b.flac", "sub/paths.parquet")])
    assert [(one.id, one.transcript) for one in recordings] == [("sub/paths/7", "go"), ("sub/paths/8", "on")]
    for one in recordings:
        with one.open() as source:
            assert torch.equal(source.read_all(), read_audio(clips[0]).waveform)


def test_what_is_said_of_audio_beside_it_is_no_recording(mix):
    names = ["manifest.jsonl", "metadata.csv", "about.parquet"]
    assert [one.id for one in find_recordings([mix("a.flac", *names)])] == ["sub/a"]
    assert [one.id for one in find_recordings([mix("x.tar", *names)])] == ["x/0"]


def test_ids_of_tables_tell_splits_and_files_apart(tmp_path, make_dataset, datasets):
    one, two = make_dataset([b"1", b"2"], id=["a", "b"]), make_dataset([b"1", b"2"], id=["a", "a"])
    one.to_parquet(tmp_path / "tables/one.parquet")
    two.to_parquet(tmp_path / "tables/two.PARQUET")
    assert [each.id for each in find_recordings([tmp_path / "tables"])] == ["one/a", "one/b", "two/0", "two/1"]
    datasets.DatasetDict(test=one, train=one).save_to_disk(tmp_path / "set")
    ids, sources = zip(*((each.id, each.source) for each in find_recordings([tmp_path / "set"])), strict=True)
    assert ids == ("set/test/a", "set/test/b", "set/train/a", "set/train/b")
    assert sources == ("set/test[0]", "set/test[1]", "set/train[0]", "set/train[1]")


def test_recordings_are_the_same_however_the_input_is_written(tmp_path, monkeypatch, write_tar, make_dataset):
    write_tar("in/shards/x.tar", [("0.flac", b"1")])
    make_dataset([b"1"]).to_parquet(tmp_path / "in/x.parquet")
    make_dataset([b"1"]).save_to_disk(tmp_path / "in/saved")
    (tmp_path / "in/b.tsv").write_text(f"path\nc/d.wav\n/e.wav\n{tmp_path}/in/f.wav\n")
    monkeypatch.chdir(tmp_path / "in")
    for name in ("shards", "shards/x.tar", "x.parquet", "saved", "b.tsv"):
        wanted = find_recordings([tmp_path / "in" / name])
        assert find_recordings([Path(name)]) == find_recordings([Path("../in") / name]) == wanted
    assert [(one.id, one.source) for one in wanted] == [("c/d", "in/c/d.wav"), ("e", "/e.wav"), ("f", "in/f.wav")]
    assert [one.source for one in find_recordings([Path("shards")])] == ["shards/x.tar:0.flac"]
    monkeypatch.chdir("shards")
    assert [one.source for one in find_recordings([Path()])] == ["shards/x.tar:0.flac"]


def test_a_manifest_of_odd_text_is_read(tmp_path):
    lines = [r'{"path": "a.wav", "transcript": "oops \ud83d"}', r'{"path": "a.flac", "speaker": {"name": "x"}}']
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    recordings = find_recordings([tmp_path / "list.jsonl"])
    assert [(one.id, one.speaker, one.transcript) for one in recordings] == [
        ("a.wav", None, r"oops \ud83d"),
        ("a.flac", None, None),
    ]


def test_what_holds_no_recordings_is_refused(tmp_path, write_tar):
    with pytest.raises(ValueError, match=r"^inputs must be one or more; got none$"):
        find_recordings([])
    with pytest.raises(
        ValueError, match=r"must be a folder, or a file of \.jsonl, \.parquet, \.tar, \.tsv; it is neither"
    ):
        find_recordings([tmp_path / "x.tar.gz"])
    with pytest.raises(
        ValueError, match=r"must be a folder with files of .*\.wav, \.tar, \.parquet in it or below, or a"
    ):
        find_recordings([tmp_path])
    with pytest.raises(ValueError, match=r"x\.tar must hold recordings; got none$"):
        find_recordings([write_tar("x.tar", [("a.txt", b"text")])])
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"must hold recordings; got none; .*x\.tar: not an uncompressed tar archive \("
    ):
        find_recordings([tmp_path])
    for missing in ("x.tsv", "y.tar", "z.parquet"):
        with pytest.raises(FileNotFoundError, match=re.escape(missing)):
            find_recordings([Path(tmp_path / missing)])
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(ValueError, match=r"dataset_dict\.json must be a JSON object that lists splits; it is not"):
        find_recordings([tmp_path])
