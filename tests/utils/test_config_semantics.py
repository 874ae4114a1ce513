"""What mmcv's ``Config`` does beside reading: formats, options, dumps, imports, remarks."""

import argparse
import sys

import pytest

from fastdet.utils import Config, ConfigDict, ConfigError, DictAction


def test_fromstring():
    assert Config.fromstring("x = 1", ".py").x == 1
    assert Config.fromstring('{"x": [1, 2.5]}', ".json").x == [1, 2.5]
    with pytest.warns(UserWarning, match=r"file_format '\.py'"), pytest.raises(ConfigError):
        Config.fromstring("x = dict()", ".json")
    with pytest.raises(ConfigError, match=r"\.yml, got '\.txt'"):
        Config.fromstring("x = 1", ".txt")


def test_yaml(tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "base.py").write_text("a = dict(b=[1, 2])\nc = 3")
    path = tmp_path / "config.yaml"
    path.write_text("_base_: base.py\na: {d: {{ _base_.a.b }}}\nc: '{{ fileBasename }}'\n"
                    "e: {1: true}\n")
    cfg = Config.fromfile(path)
    assert cfg._cfg_dict == {"a": {"b": [1, 2], "d": [1, 2]}, "c": "config.yaml", "e": {1: True}}
    for text, part in (("[1]", "must be a dict"), ("a: [", r"config\.yaml:2: the file is not YAML"),
                       ("1: 2", "keys of a config must be strings, got 1")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=part):
            Config.fromfile(path)


def test_yaml_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "config.yml").write_text("a: 1")
    with pytest.raises(ConfigError, match="pip install pyyaml"):
        Config.fromfile(tmp_path / "config.yml")


@pytest.mark.parametrize("suffix", [".py", ".json", ".yaml"])
def test_dump_in_the_format_of_the_file(tmp_path, suffix):
    if suffix == ".yaml":
        pytest.importorskip("yaml")
    content = {"a": {"b": [1, None, 2.5], "c": "x'\"\n\\"}, "d": True}
    path = tmp_path / f"config{suffix}"
    Config(content).dump(path)
    again = Config.fromfile(path)
    assert again._cfg_dict == content
    assert again.dump() == path.read_text()


def test_keys_that_are_no_names_are_not_dumped_as_python():
    with pytest.raises(ValueError, match=r"'a-b'; dump it to a \.json file"):
        Config({"a-b": 1}).dump()


def test_predefined_variables(tmp_path):
    folder = tmp_path / "it's"
    folder.mkdir()
    path = folder / "config.py"
    path.write_text("a = '{{ fileDirname }}'\nb = f'{{ fileBasename }}/{1}'")
    cfg = Config.fromfile(path)
    assert (cfg.a, cfg.b) == (str(folder), "config.py/1")
    cfg = Config.fromfile(path, use_predefined_variables=False)
    assert (cfg.a, cfg.b) == ("{{ fileDirname }}", "{ fileBasename }/1")


def test_custom_imports(tmp_path, monkeypatch):
    (tmp_path / "imported_by_a_config.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "config.py"
    path.write_text("custom_imports = dict(imports=['imported_by_a_config'])")
    Config.fromfile(path, import_custom_modules=False)
    assert "imported_by_a_config" not in sys.modules
    Config.fromfile(path)
    assert sys.modules.pop("imported_by_a_config")
    path.write_text("custom_imports = dict(imports='no_such_module', allow_failed_imports=False)")
    with pytest.raises(ImportError, match="custom_imports name no_such_module"):
        Config.fromfile(path)
    path.write_text("custom_imports = dict(imports=['no_such_module'], allow_failed_imports=True)")
    with pytest.warns(UserWarning, match="no_such_module cannot be imported"):
        Config.fromfile(path)
    for bad in ("[1]", "dict(modules=['os'])"):
        path.write_text(f"custom_imports = {bad}")
        with pytest.raises(ConfigError, match="custom_imports must be dict"):
            Config.fromfile(path)
    path.write_text("custom_imports = dict(imports=[1])")
    with pytest.raises(TypeError, match="must be a module's name"):
        Config.fromfile(path)


def test_deprecation(tmp_path):
    (tmp_path / "old.py").write_text(
        "a = 1\n_deprecation_ = dict(expected='new.py', reference='https://example.org')")
    path = tmp_path / "config.py"
    path.write_text("_base_ = 'old.py'")
    with pytest.warns(DeprecationWarning, match=r"old\.py is deprecated; use new\.py instead; more "
                                                r"is said at https://example\.org"):
        cfg = Config.fromfile(path)
    assert list(cfg) == ["a"]


def test_merging_leaves_the_bases_as_they_are(tmp_path):
    (tmp_path / "base.py").write_text("a = dict(x=1)\nb = dict(_delete_=True, y=2)")
    (tmp_path / "config.py").write_text("_base_ = 'base.py'\na = {{_base_.b}}\nc = {{_base_.b}}")
    assert Config.fromfile(tmp_path / "config.py")._cfg_dict == {
        "a": {"y": 2}, "b": {"y": 2}, "c": {"y": 2}}


#: Text -> what mmcv 1.7.2's DictAction makes of it.
VALUES = {
    "1": 1, "1.5": 1.5, "1e-3": 0.001, "true": True, "False": False, "None": None, "none": "none",
    "a": "a", "a,b": ["a", "b"], "1,2": [1, 2], "[1,2]": [1, 2], "(1,2)": (1, 2),
    "[(1,2),(3,4)]": [(1, 2), (3, 4)], "[1,[2,3],a]": [1, [2, 3], "a"], "'x'": "x",
    '"a,b"': ["a", "b"], "": "", "[]": [], "()": (), "[a": "[a", "a]": "a]", " 1 , 2 ": [1, 2],
    "a b": "ab", "[1.5,true]": [1.5, True], "[[1]]": [[1]], "1,": [1], "x=y": "x=y", "(1)": (1,),
    "0x10": "0x10", "1_000": 1000, "-1,-2": [-1, -2],
}


@pytest.mark.parametrize("text", VALUES)
def test_values_of_options(text):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    found = parser.parse_args(["--cfg-options", f"a.b={text}", "c=1"]).cfg_options
    assert found == {"a.b": VALUES[text], "c": 1}
    assert type(found["a.b"]) is type(VALUES[text])


@pytest.mark.parametrize("text", ["a", "=1", "a=(1,2", "a=[1,2]]", "a=" + "[" * 60 + "1,"])
def test_bad_options(text, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    with pytest.raises(SystemExit):
        parser.parse_args(["--cfg-options", text])
    assert "argument --cfg-options: " in capsys.readouterr().err
    assert DictAction._parse_iterable("[1,2],[3]") == [[1, 2], [3]]  # mmcv never returns


def test_a_parser_from_a_config(tmp_path, monkeypatch):
    path = tmp_path / "config.py"
    path.write_text("a = 1\nb = 1.5\nc = 's'\nd = True\ne = dict(f=[1, 2], g=None)")
    monkeypatch.setattr(sys, "argv", ["prog", str(path), "--a", "3", "--e.f", "4", "5", "--d", "0"])
    with pytest.warns(UserWarning, match=r"e\.g has no option: its type is NoneType"):
        parser, cfg = Config.auto_argparser("what it is")
    args = vars(parser.parse_args())
    assert args == {"config": str(path), "a": 3, "b": None, "c": None, "d": 0, "e.f": [4, 5]}
    assert cfg.e.f == [1, 2]


def test_union_of_config_dicts():
    d = ConfigDict(a=dict(b=1)) | {"a": {"c": 2}}
    assert d == {"a": {"b": 1, "c": 2}}
    assert type(d) is ConfigDict
    d |= {"e": 1}
    assert d.e == 1
