import re
import shutil
from pathlib import Path

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
    message = f"ids must be unique; {tmp_path}/x/a.wav and {tmp_path}/y/a.wav both have 'a'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}: a folder above both, or a manifest with a column id"):
        find_recordings([tmp_path / "x", tmp_path / "y"])
    assert [one.id for one in find_recordings([tmp_path])] == ["x/a", "y/a", "y/b"]
    (tmp_path / "y/a.wav").unlink()
    assert [one.id for one in find_recordings([tmp_path / "y", tmp_path / "x"])] == ["b", "a"]


def test_damaged_shards_do_not_hide_the_others(tmp_path, write_tar, make_dataset):
    write_tar("tar/b.tar", [("0.flac", b"1")])
    (tmp_path / "tar/a.tar").touch()
    make_dataset([b"1"]).to_parquet(tmp_path / "tables/b.parquet")
    (tmp_path / "tables/a.parquet").touch()
    for folder in ("tar", "tables"):
        assert [one.id for one in find_recordings([tmp_path / folder])] == ["a", "b/0"]


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
    for missing in ("x.tsv", "y.tar"):
        with pytest.raises(FileNotFoundError, match=re.escape(missing)):
            find_recordings([Path(tmp_path / missing)])
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(ValueError, match=r"dataset_dict\.json must be a JSON object that lists splits; it is not"):
        find_recordings([tmp_path])
