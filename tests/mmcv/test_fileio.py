"""Files, formats and backends."""

import io

import numpy as np
import pytest

mmcv = pytest.importorskip("fastdet.mmcv", reason="needs the extra mmcv")
from fastdet.mmcv.fileio import file_client  # noqa: E402


@pytest.mark.parametrize("ending", ["json", "yaml", "yml", "pkl", "pickle"])
def test_an_object_survives_a_file(tmp_path, ending):
    value = {"a": [1, 2.5, "x"], "b": {"c": None}}
    file = tmp_path / "new" / f"f.{ending}"
    mmcv.dump(value, file)
    assert mmcv.load(file) == value
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    buffer = io.BytesIO() if ending.startswith("p") else io.StringIO()
    mmcv.dump(value, buffer, file_format=ending)
    buffer.seek(0)
    assert mmcv.load(buffer, file_format=ending) == value


def test_numpy_goes_into_json():
    text = mmcv.dump({"a": np.arange(3), "b": np.float32(1.5), "c": {1}}, file_format="json")
    assert text == '{"a": [0, 1, 2], "b": 1.5, "c": [1]}'


def test_yaml_runs_nothing(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text("a: !!python/object/apply:os.system ['exit 3']")
    with pytest.raises(Exception, match="python/object/apply"):
        mmcv.load(file)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "f.json"
    mmcv.dump([1], file)
    with pytest.raises(TypeError, match="unsupported for json dump"):
        mmcv.dump([1, object()], file)
    with pytest.raises(TypeError):
        mmcv.FileClient().put("text, not bytes", file)
    assert mmcv.load(file) == [1]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_or_unknown_file_is_named(tmp_path):
    file = tmp_path / "f.json"
    file.write_text('{"a": [1')
    with pytest.raises(ValueError, match=r"cannot read .*f\.json"):
        mmcv.load(file)
    with pytest.raises(TypeError, match="Unsupported format: txt"):
        mmcv.load("f.txt")


def test_lines(tmp_path):
    file = tmp_path / "f.txt"
    file.write_text("1 a\n2 b c\n3 d\n")
    assert mmcv.list_from_file(file, prefix="p/", offset=1, max_num=1) == ["p/2 b c"]
    assert mmcv.dict_from_file(file, int) == {1: "a", 2: ["b", "c"], 3: "d"}


def test_the_backend_follows_the_uri(monkeypatch):
    assert mmcv.FileClient() is mmcv.FileClient("disk")
    assert mmcv.FileClient.parse_uri_prefix("cluster:s3://bucket/x") == "s3"
    assert mmcv.FileClient.infer_client(uri="https://host/x").name == "HTTPBackend"
    with pytest.raises(ImportError, match="PetrelBackend needs the package petrel_client"):
        mmcv.FileClient.infer_client(uri="s3://bucket/x")
    with pytest.raises(ValueError, match="Currently supported ones are"):
        mmcv.FileClient("tape")


def test_a_backend_can_be_registered(monkeypatch):
    for table in ("_backends", "_prefix_to_backends", "_instances"):
        monkeypatch.setattr(mmcv.FileClient, table, dict(getattr(mmcv.FileClient, table)))

    @mmcv.FileClient.register_backend("memory", prefixes="mem")
    class Memory(mmcv.BaseStorageBackend):
        def get(self, filepath):
            return b"[1]"

        def get_text(self, filepath, encoding="utf-8"):
            return "[1]"

    assert mmcv.load("mem://f.json") == [1]
    with pytest.raises(KeyError, match="already registered"):
        mmcv.FileClient.register_backend("memory", Memory)
    with pytest.raises(TypeError, match="not a subclass"):
        mmcv.FileClient.register_backend("other", dict)


@pytest.mark.parametrize(("arguments", "expected"), [
    ({}, {"a.txt", "s"}),
    ({"recursive": True}, {"a.txt", "s", "s/b.jpg"}),
    ({"list_dir": False, "suffix": ".jpg", "recursive": True}, {"s/b.jpg"}),
    ({"list_file": False}, {"s"}),
])
def test_folders_are_listed(tmp_path, arguments, expected):
    (tmp_path / "s").mkdir()
    for name in ("a.txt", "s/b.jpg", ".hidden"):
        (tmp_path / name).write_text("")
    assert set(mmcv.FileClient().list_dir_or_file(tmp_path, **arguments)) == expected
    assert set(mmcv.scandir(tmp_path, recursive=True)) == {"a.txt", "s/b.jpg"}


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.json"
    mmcv.symlink(tmp_path / "real" / "f.json", link)
    file_client.HardDiskBackend().put_text("[2]", link)
    assert link.is_symlink()
    assert mmcv.load(tmp_path / "real" / "f.json") == [2]
