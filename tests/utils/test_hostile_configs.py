"""Any config is answered within a second, whatever it holds."""

import gc
import os
import time

import pytest

from fastdet.utils import Config, ConfigError

P = 2**61 - 1  # Python's hash of an integer is its remainder by this
DAG = "".join(f"a = [a, a]; b = [b, b]  # {i}\n" for i in range(40))

TEXTS = {
    "statements": "a=1\n" * 20_000,
    "too many statements": "a=1\n" * 130_000,
    "colliding keys": f"x = {{i * {P}: 0 for i in range(20000)}}",
    "colliding literals": "x = {" + ",".join(f"{i * P}: 0" for i in range(3000)) + "}",
    "colliding tuples": f"x = {{(i, i * {P}) for i in range(20000)}}",
    "colliding look-ups": f"d = {{i * {P} + 5: 0 for i in range(60)}}\n"
                          "x = [d.get(5) for i in range(90000)]",
    "deep brackets": "a = " + "[" * 5000 + "]" * 5000,
    "deep brackets that do not fit": "a = " + "{" * 190 + "1:" + "}" * 190,
    "deep signs": "a = " + "-" * 90_000 + "1",
    "deep sums": "a = " + "1+" * 40_000 + "1",
    "long decimal": "a = " + "9" * 500_000,
    "long hexadecimal": "a = 0x" + "f" * 500_000,
    "squares": "a = 2\n" + "a = a * a\n" * 40,
    "powers": "a = 9 ** 9 ** 9",
    "shifts": "a = 1 << 10 ** 9",
    "long string": "a = 'x' * 10 ** 9",
    "doubled string": "a = 'x'\n" + "a = a + a\n" * 40,
    "joined string": "a = 'x' * 90000\nb = a.join(list(a))",
    "replaced string": "a = 'x' * 90000\nb = a.replace('x', a)",
    "split strings": "a = 'x ' * 40000\nb = [a.split() for i in range(99)]",
    "wide format": "w = '9' * 9\na = f'{1:{w}}'",
    "fields": "a = f'" + "{1}" * 15_000 + "'",
    "rounding": "a = round(5, -10 ** 9)",
    "long range": "a = list(range(10 ** 12))",
    "longer range": "a = [i for i in range(10 ** 30)]",
    "nested loops": "for i in range(1000):\n for j in range(1000):\n  a = i + j",
    "nested comprehension": "a = [0 for i in range(90000) for j in range(90000)]",
    "membership": "a = list(range(90000))\nb = [i in a for i in a]",
    "sorting": "a = list(range(50000))\n" + "a = sorted(a)\n" * 50,
    "printing shared lists": f"a = [1]\nb = 1\n{DAG}c = f'{{a}}'",
    "comparing shared lists": f"a = [1]\nb = [1]\n{DAG}c = a == b",
    "hashing shared tuples": "a = (1,)\n" + "a = (a, a)\n" * 40 + "c = {a: 1}",
    "growing in a loop": "x = [1]\nfor i in range(60):\n    x.extend(x)",
    "repeated keywords": f"d = {{{','.join(f'{c!r}: 0' for c in 'abcdefgh')}}}\n"
                         f"a = dict({'**d,' * 20_000})",
    "copies": "a = [0] * 9000\nb = [" + "*a," * 9000 + "]",
    "itself": "a = dict(x=1)\na.update(y=a)\nb = str(a)",
    "brackets of text": "a = '''" + "(" * 100_001,
}
ALLOWED = {"statements"}


def answer(path):
    """Reads a config: its dict or the error's one line."""
    gc.freeze()  # what other tests left behind is not to be walked on the reader's account
    start = time.process_time()
    try:
        found = Config.fromfile(path)._cfg_dict
    except ConfigError as e:
        found = str(e)
    taken = time.process_time() - start
    gc.unfreeze()
    assert taken < 1
    assert isinstance(found, dict) or ("\n" not in found and len(found) < 1000)
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_a_text(tmp_path, name):
    path = tmp_path / "config.py"
    path.write_text(TEXTS[name])
    assert isinstance(answer(path), dict if name in ALLOWED else str)


YAML = {
    "shared lists": "a0: &a0 [1, 1]\n" + "".join(
        f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
    "merged keys": "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{k{i}: 1, <<: [*a{i - 1}, *a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)),
    "a merge of itself": "a: &a {<<: *a}",
    "colliding keys": "x: {" + ", ".join(f"{i * P}: 0" for i in range(2000)) + "}",
    "deep brackets": "a: " + "[" * 4000,
    "an object": "a: !!python/object/apply:os.system ['true']",
}


@pytest.mark.parametrize("name", YAML)
def test_a_yaml_text(tmp_path, name):
    pytest.importorskip("yaml")
    path = tmp_path / "config.yaml"
    path.write_text(YAML[name])
    assert isinstance(answer(path), dict if name == "merged keys" else str)


def test_bases_are_read_once(tmp_path):
    (tmp_path / "b0.py").write_text("")
    for i in range(1, 9):
        (tmp_path / f"b{i}.py").write_text(f"_base_ = ['b{i - 1}.py'] * 2\n")
    assert answer(tmp_path / "b8.py") == {}  # 256 readings would be too many


def test_files_are_counted(tmp_path):
    names = [f"b{i}.py" for i in range(100)]
    for i, name in enumerate(names):
        (tmp_path / name).write_text(f"x{i} = 1\n")
    path = tmp_path / "config.py"
    path.write_text(f"_base_ = {names}")
    assert "are more than 64 files" in answer(path)
    path.write_text(f"_base_ = {names[:60]}")
    assert len(answer(path)) == 60
    for name in names[:3]:
        (tmp_path / name).write_text("#" + "x" * (250 << 10))
    assert "exceed 512 KiB" in answer(path)
    (tmp_path / "chain0.py").write_text("x = [[0] * 300] * 300")
    for i in range(1, 60):
        (tmp_path / f"chain{i}.py").write_text(f"_base_ = 'chain{i - 1}.py'")
    answer(tmp_path / "chain59.py")


def test_a_base_that_is_no_file(tmp_path):
    os.symlink("/dev/zero", tmp_path / "zero.py")
    os.mkfifo(tmp_path / "pipe.py")
    os.symlink(tmp_path / "loop.py", tmp_path / "loop.py")
    os.symlink(tmp_path, tmp_path / "again")
    (tmp_path / "folder.py").mkdir()
    path = tmp_path / "config.py"
    for base, part in (("zero.py", "no regular file"), ("pipe.py", "no regular file"),
                       ("loop.py", "symbolic links"), ("again/config.py", "its own _base_"),
                       ("folder.py", "cannot be read"), ("n" * 5000 + ".py", "is no path"),
                       ("a\\0.py", "is no path"), ("\\ud800.py", "is no path")):
        path.write_text(f"_base_ = '{base}'")
        assert part in answer(path)
