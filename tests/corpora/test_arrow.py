import math
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from codec.audio import AudioFileError, read_audio
from codec.corpora.arrow import list_dataset, list_parquet, list_paths, read_dataset_row, read_parquet_row
from codec.corpora.find import find_recordings
from codec.corpora.place import DatasetRow, ParquetRow


def saved(dataset, path, as_parquet):
    # Two rows a group, so that rows are looked for in several.
    dataset.to_parquet(path, batch_size=2) if as_parquet else dataset.save_to_disk(path)
    return path


def waveform(recording):
    with recording.open() as source:
        return source.read_all()


@pytest.mark.parametrize(("name", "kind"), [("x.parquet", ParquetRow), ("x", DatasetRow)])
def test_rows_are_listed_and_read_wherever_their_audio_is(tmp_path, make_dataset, clips, name, kind):
    audio = [clips[0].read_bytes(), str(clips[1]), clips[2].read_bytes(), clips[0].read_bytes(), clips[1].read_bytes()]
    dataset = make_dataset(audio, id=list("vwxyz"), speaker_id=[3, 1, 4, 1, 5], text=["é", None, "", "c", "d"])
    path = saved(dataset, tmp_path / name, kind is ParquetRow)
    recordings = find_recordings([path])
    assert [(one.id, one.speaker, one.transcript) for one in recordings] == [
        ("x/v", "3", "é"),
        ("x/w", "1", None),
        ("x/x", "4", None),
        ("x/y", "1", "c"),
        ("x/z", "5", "d"),
    ]
    assert (recordings[3].source, recordings[3].place) == (f"{name}[3]", kind(str(path), "audio", 3))
    for index in (4, 1, 2, 0, 3):
        assert torch.equal(waveform(recordings[index]), read_audio([*clips, *clips][index]).waveform)


@pytest.mark.parametrize("name", ["x.parquet", "x"])
def test_rows_without_ids_are_numbered(tmp_path, make_dataset, name):
    path = saved(make_dataset([b"1", b"2"], column="speech"), tmp_path / name, name.endswith("parquet"))
    assert [(one.id, one.place.column) for one in find_recordings([path])] == [("x/0", "speech"), ("x/1", "speech")]


def test_paths_of_a_table_are_looked_for_next_to_it(tmp_path, clips):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.flac").write_bytes(clips[0].read_bytes())
    pq.write_table(pa.table({"audio": [{"bytes": None, "path": "sub/a.flac"}]}), tmp_path / "x.parquet")
    (found,) = find_recordings([tmp_path / "x.parquet"])
    assert torch.equal(waveform(found), read_audio(clips[0]).waveform)


def cells(data):
    return pa.array([{"bytes": data, "path": None}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))


def test_the_audio_column_is_the_one_that_is_audio(tmp_path, datasets, make_dataset):
    pq.write_table(pa.table({"echo": cells(b"1"), "audio": cells(b"2")}), tmp_path / "named.parquet")
    assert list_parquet(str(tmp_path / "named.parquet"), "x").column == "audio"
    pictures = make_dataset([b"1"]).add_column("face", [{"bytes": b"2", "path": None}])
    pictures.cast_column("face", datasets.Image()).rename_column("audio", "voice").to_parquet(tmp_path / "face.parquet")
    assert list_parquet(str(tmp_path / "face.parquet"), "x").column == "voice"


@pytest.mark.parametrize(
    ("columns", "shown"), [({"a": [1]}, "a (int64)"), ({"a": cells(b"1"), "b": cells(b"2")}, "a (struct<")]
)
def test_a_table_of_no_audio_or_of_several_is_refused(tmp_path, columns, shown):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    message = f"x must have one audio column (of bytes and path); its columns are {shown}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        list_parquet(str(tmp_path / "x.parquet"), "x")


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([7, 8], ["7", "8"]),
        ([7.0, 8.5], ["7", "8.5"]),
        (["a", "a"], [None, None]),
        (["a", None], [None, None]),
        ([7.0, math.nan], [None, None]),
        ([[1], [2]], [None, None]),
    ],
)
def test_ids_count_if_they_tell_all_rows_apart(tmp_path, ids, told):
    audio = pa.concat_arrays([cells(b"1"), cells(b"2")])
    pq.write_table(pa.table({"audio": audio, "id": ids}), tmp_path / "x.parquet")
    assert [row.id for row in list_parquet(str(tmp_path / "x.parquet"), "x").rows] == told


def test_text_that_is_no_unicode_is_shown_as_such(tmp_path):
    text = pa.array([b"caf\xe9"]).view("string")
    pq.write_table(pa.table({"audio": cells(b"1"), "text": text}), tmp_path / "x.parquet")
    assert next(list_parquet(str(tmp_path / "x.parquet"), "x").rows).transcript == "caf\\xe9"


def test_paths_are_listed_of_audio_columns_alone(tmp_path):
    audio = pa.array([{"bytes": b"1", "path": "a.wav"}, None, {"bytes": b"2", "path": None}])
    for name, columns in {"x": {"audio": audio, "id": [1, 2, 3]}, "y": {"id": [1]}}.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    assert [list_paths(str(tmp_path / f"{name}.parquet"), name) for name in "xy"] == [["a.wav"], None]


@pytest.mark.parametrize("name", ["x.parquet", "x"])
def test_rows_without_audio_and_rows_that_are_gone_are_told(tmp_path, make_dataset, name):
    path = str(saved(make_dataset([b"1", None]), tmp_path / name, name.endswith("parquet")))
    (_, empty), read = find_recordings([Path(path)]), {"x": read_dataset_row, "x.parquet": read_parquet_row}[name]
    with pytest.raises(AudioFileError, match=rf"^{name}\[1\]: holds no audio$"), empty.open():
        pass
    with pytest.raises(AudioFileError, match=r"^x\[2\]: is not there; the table has 2 rows$"):
        read(path, "audio", 2, "x[2]")


def test_damage_is_told_in_one_line(tmp_path, make_dataset):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(AudioFileError, match=r"^shown: .*[Pp]arquet.*$"):
        list_parquet(str(tmp_path / "x.parquet"), "shown")
    with pytest.raises(AudioFileError, match=r"^shown: No such file or directory$"):
        list_parquet(str(tmp_path / "missing.parquet"), "shown")
    make_dataset([b"1"]).save_to_disk(tmp_path / "x")
    (arrow,) = (tmp_path / "x").glob("*.arrow")
    arrow.write_bytes(b"\xff\xff\xff\xff\x10")
    with pytest.raises(AudioFileError, match=r"^shown: .+$"):
        list_dataset(str(tmp_path / "x"), "shown")


@pytest.mark.parametrize(("package", "list_rows"), [("pyarrow", list_parquet), ("datasets", list_dataset)])
def test_a_missing_package_is_told_with_the_extra_that_brings_it(tmp_path, monkeypatch, package, list_rows):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match=rf"^{package} must be installed for data sets: pip install 'rvq-codec\[corpora\]'$"
    ):
        list_rows(str(tmp_path / "x"), "x")
