"""Configs: what is read, what is refused, and that nothing is ever executed."""

import copy
import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdet.utils import Config, ConfigDict, ConfigError


@pytest.fixture
def write(tmp_path):
    def write(text, name="config.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path
    return write


@pytest.fixture
def read(write):
    return lambda text, name="config.py": Config.fromfile(write(text, name))


READABLE = [
    ("x = None", None), ("x = True", True), ("x = -3", -3), ("x = +1.5", 1.5),
    ("x = 'a' 'b'", "ab"),
    ("x = (1, 2)", (1, 2)), ("x = (1,)", (1,)), ("x = ()", ()), ("x = [1, [2]]", [1, [2]]),
    ("x = {1, 2}", {1, 2}), ("x = {'a': 1, 2: 3}", {"a": 1, 2: 3}), ("x = dict()", {}),
    ("x = dict(a=1, b=dict(c=2))", {"a": 1, "b": {"c": 2}}),
    ("x = dict({'a': 1}, b=2)", {"a": 1, "b": 2}),
    ("x = dict([('a', 1)])", {"a": 1}),
    ("x = dict(self=1, node=2, call=3)", {"self": 1, "node": 2, "call": 3}),
    ("a = dict(p=1)\nx = dict(**a, q=2)", {"p": 1, "q": 2}),
    ("a = dict(p=1)\nx = {**a, 'p': 2}", {"p": 2}),
    ("a = [1]\nx = [*a, 2]", [1, 2]), ("a = 1\nx = a + 1", 2), ("x = 7 // 2 * 2 - 1", 5),
    ("x = 1 / 4", 0.25), ("x = 7 % 4", 3), ("x = 2 ** 10", 1024), ("x = 2 ** -1", 0.5),
    ("x = [0] * 3", [0, 0, 0]), ("x = 2 * (1,)", (1, 1)), ("x = [1] + [2]", [1, 2]),
    ("x = 'data/' + 'coco'", "data/coco"),
    ("a = (640, 320)\nx = (-a[0] // 2, -a[1] // 2)", (-320, -160)),
    ("a = dict(b=[1, 2])\nx = a['b'][-1]", 2), ("a = [1, 2, 3]\nx = a[1:]", [2, 3]),
    ("a, (b, c) = 1, (2, 3)\nx = [a, b, c]", [1, 2, 3]), ("x = y = 3", 3),
    ("x = [1]\nx += [2]", [1, 2]), ("x = [1]\ny = x\ny += (2,)", [1, 2]), ("x = 1\nx *= 5", 5),
    ("x = dict(a=1)\nx['a'] = 2", {"a": 2}), ("x = [1, 2]\nx[0] += 4", [5, 2]),
    ('"""A docstring."""\nx = 1', 1),
    ("x = f'{1}-{2.5:.3f}-{[1]!r}-{\"a\":>3}'", "1-2.500-[1]-  a"),
    ("n = 3\nx = [i * n for i in range(4) if i % 2]", [3, 9]),
    ("x = [(i, j) for i in range(2) for j in range(i + 1)]", [(0, 0), (1, 0), (1, 1)]),
    ("i = 7\ny = [i for i in range(3)]\nx = i", 7),
    ("i = 7\ny = [[i for i in range(i)] for i in range(3)]\nx = y[2]", [0, 1]),
    ("x = {i % 2 for i in range(9)}", {0, 1}),
    ("x = {f'a.{i}.{j}': i + j for i, n in enumerate([1, 2]) for j in range(n)}",
     {"a.0.0": 0, "a.1.0": 1, "a.1.1": 2}),
    ("x = dict(a=1)\nx.update({f'k{i}': i for i in range(2)})\nx.update(b=3)",
     {"a": 1, "k0": 0, "k1": 1, "b": 3}),
    ("x = sum(i for i in range(5))", 10), ("x = sum([[1], [2]], [])", [1, 2]),
    ("x = 1 if [] else 2", 2), ("x = 1 < 2 <= 2 != 3", True), ("x = 2 in [1, 2] and 3 not in (3,)",
     False), ("x = None or 'a'", "a"), ("x = not 0", True), ("x = None is None", True),
    ("x = [len('abc'), list((1,)), tuple([1]), str(2), int('3'), float('4'), bool(5)]",
     [3, [1], (1,), "2", 3, 4.0, True]),
    ("x = [min(3, 1), max([1, 2]), sorted([3, 1], reverse=True), abs(-1), round(1.25, 1)]",
     [1, 2, [3, 1], 1, 1.2]),
    ("x = [list(zip([1], 'a')), list(reversed([1, 2])), any([0, 1]), all([]), set([1])]",
     [[(1, "a")], [2, 1], True, True, {1}]),
    ("a = dict(p=1, q=2)\nx = [a.pop('p'), a.get('p', 9), list(a.items()), list(a.keys())]",
     [1, 9, [("q", 2)], ["q"]]),
    ("a = dict(p=1)\nb = a.copy()\nb['p'] = 2\nx = [a, b, b.setdefault('z', 3)]",
     [{"p": 1}, {"p": 2, "z": 3}, 3]),
    ("x = [1]\nx.append(2)\nx.extend((3,))\nx.insert(0, 0)\nx.remove(2)", [0, 1, 3]),
    ("x = ['a-b'.split('-'), ','.join(['a', 'b']), 'aXa'.replace('a', 'bb').lower()]",
     [["a", "b"], "a,b", "bbxbb"]),
    ("x = []\nfor i, c in enumerate('ab'):\n    if i > 0:\n        x += [c]\n    else:\n"
     "        x += [i]", [0, "b"]),
]


@pytest.mark.parametrize(("text", "want"), READABLE)
def test_reads_what_python_would(read, text, want):
    scope = {}
    exec(text, scope)  # what mmcv does, on text of our own
    assert scope["x"] == want
    found = read(text)["x"]
    assert found == want
    assert type(found) is (ConfigDict if isinstance(want, dict) else type(want))


def test_infinity(read):
    assert read("x = -1e999").x == -math.inf


REFUSED = [
    ("import os", "an import"), ("from os import system", "an import"),
    ("def f():\n    pass", "a function definition"), ("class A:\n    pass", "a class definition"),
    ("x = lambda: 1", "a lambda"),
    ("while True:\n    x = 1", "a while loop"),
    ("x = (y := 1)", "an assignment expression"),
    ("x = ~1", "the operation '~1'"),
    ("x = 1 << 4", "the operation '1 << 4'"), ("x = '%d' % 1", "the operation '\\'%d\\' % 1'"),
    ("with open('f') as f:\n    pass", "a with statement"), ("assert True", "an assert statement"),
    ("try:\n    x = 1\nfinally:\n    x = 2", "a try statement"),
    ("raise ValueError", "a raise statement"),
    ("x = 1\ndel x", "a del statement"), ("x = 'a'.format(1)", "a call of ''a'.format'"),
    ("x = f'{open(1)}'", "a call of 'open'"), ("x = [open(i) for i in [1]]", "a call of 'open'"),
    ("x = [i for i in [1]]\ny = i", "the name 'i'"),
    ("x = getattr(1, 'a')", "a call of 'getattr'"),
    ("x = (i.a for i in [1])", "the expression 'i.a'"),
    ("x = str.join", "the expression 'str.join'"),
    ("x = f'{ {{_base_.a}} }'", "a _base_ reference in '{{_base_.a}}'"),
    ("x = 1 if {{_base_.a}} else 2", "a _base_ reference as a condition"),
    ("x = {{_base_.a}} == 1", "a _base_ reference in '{{_base_.a}} == 1'"),
    ("x = b'1'", "the literal b'1'"),
    ("x = ...", "the literal ..."), ("x = 1j", "the literal 1j"),
    ("x: int = 1", "an annotated assignment"),
    ("x = open('f')", "a call of 'open'"), ("x = eval('1')", "a call of 'eval'"),
    ("x = __import__('os')", "a call of '__import__'"),
    ("x = [].sort()", "a call of '[].sort'"), ("x = (1).bit_length()", "a call of '1 .bit_length'"),
    ("x = (1).__class__", "the expression '1 .__class__'"),
    ("x = dict(a=1)\ny = x.a", "the expression 'x.a'"), ("word", "the expression 'word'"),
    ("for i in [1]:\n    break", "the statement 'break'"),
    ("x = dict()\nx.a = 1", "an assignment to 'x.a'"),
    ("x = y", "the name 'y'"),
    ("dict = 3\nx = dict(a=1)", "a call of 'dict'"),
    ("x = {{_other_.a}}", "the reference '{{_other_.a}}'"),
    ("x = {1, {{_base_.a}}}", "a _base_ reference in a set"),
    ("x = {{{_base_.a}}: 1}", "a _base_ reference as a key"),
    ("x = {{_base_.a}} + 'x'", "the operation '{{_base_.a}} + \\'x\\''"),
]


@pytest.mark.parametrize(("text", "construct"), REFUSED)
def test_refuses_by_file_line_and_construct(write, text, construct):
    path = write("first = 1\n" + text)
    with pytest.raises(ConfigError) as caught:
        Config.fromfile(path)
    error = caught.value
    assert error.construct == construct.replace("\\'", "'")
    assert error.file == path
    assert error.line in (2, 3)
    assert str(error).startswith(f"{path}:{error.line}: ")
    assert "\n" not in str(error)


FAILING = [
    ("x = 1 / 0", "division"), ("x = 2 ** 5000", "bits"), ("x = 10.0 ** 400", "evaluated"),
    ("x = (-1) ** 0.5", "not a real number"), ("x = [0] * 10 ** 9", "items"),
    ("x = 'a' * 99999 + 'aa'", "items"), ("x = [0] * 99999\n" * 4, "steps"),
    ("x = [1][5]", "out of range"), ("x = dict(a=1)['b']", "'b' is not there"),
    ("x = {[]: 1}", "unhashable"),
    ("a, b = [1]", "1 values for 2 names"), ("x = [*5]", "a int cannot be iterated over"),
    ("x = dict(**[1])", "a dict is needed"), ("x = dict(a=1, **dict(a=2))", "given twice"),
    ("x = dict(1, 2)", "cannot be evaluated"), ("x = [1] + (1,)", "concatenate"),
        ("x = (1, 2)\nx[0] = 3", "takes no assignment"),
    ("x = 3\ny = x[0]", "indexed"),
    ("x = {{_base_.a}}", "_base_.a is not in the base config"),
]


@pytest.mark.parametrize(("text", "part"), FAILING)
def test_a_value_that_cannot_be_had(write, text, part):
    with pytest.raises(ConfigError, match=rf"^[^\n]*{part}[^\n]*$"):
        Config.fromfile(write(text))


def test_values_that_grow_when_copied(read):
    doubling = "a = [1, 1]\n" + "a = [a, a]\n" * 40
    with pytest.raises(ConfigError, match="more than 100000 values"):
        read(doubling)
    with pytest.raises(ConfigError, match="contains itself"):
        read("a = dict()\na['x'] = a")
    for depth in (500, 15_000):
        with pytest.raises(ConfigError, match="nested too deeply"):
            read("a = [1]\n" + "a = [a]\n" * depth)
    with pytest.raises(ConfigError):
        read(f"a = {'[' * 5000}{']' * 5000}")
    with pytest.raises(ConfigError):
        read("a = " + "-" * 100_000 + "1")


@pytest.mark.parametrize("payload", [
    "import os\nos.system('touch {0}')", "__import__('os').system('touch {0}')",
    "x = dict(a=__import__('os').system('touch {0}'))", "x = open('{0}', 'w')",
    "x = ().__class__.__base__.__subclasses__()\nopen('{0}', 'w')",
    "x = [open('{0}', 'w') for i in range(1)]", "x = f\"{{open('{0}', 'w')}}\"",
    "x = dict(a=1)\nx.update(b=open('{0}', 'w'))", "exec(\"open('{0}', 'w')\")",
])
def test_nothing_is_executed(write, tmp_path, payload):
    canary = tmp_path / "canary"
    with pytest.raises(ConfigError):
        Config.fromfile(write(payload.format(canary)))
    assert not canary.exists()


@pytest.mark.parametrize(("content", "part"), [
    (b"\x89PNG\r\n\x1a\n\x00\x00", "binary"), (b"x = \xff\xfe", "binary"), (b"x = 1\0", "binary"),
    (b"x = (1", "not Python"), (b"#" * (513 << 10), "exceed 512 KiB"), (b"_base_ = 3", "path"),
    (b"text = 'a'", "reserved"),
])
def test_a_file_that_is_no_config(tmp_path, content, part):
    path = tmp_path / "config.py"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^[^\n]*{part}[^\n]*$"):
        Config.fromfile(path)


def test_files_that_are_not_there(tmp_path, write):
    with pytest.raises(ConfigError, match="no such config file"):
        Config.fromfile(tmp_path / "none.py")
    with pytest.raises(ConfigError, match=r"none\.py: there is no such"):
        Config.fromfile(write("_base_ = './none.py'"))
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        Config.fromfile(tmp_path / "folder.py")
    with pytest.raises(FileNotFoundError, match=r"none\.py: there is no such config file$"):
        Config.fromfile(tmp_path / "none.py")
    with pytest.raises(ConfigError, match=r"\.py, \.json, \.yaml or \.yml"):
        Config.fromfile(write("a: 1", "config.toml"))


def test_bases_of_several_levels(write, read):
    write("model = dict(type='A', neck=dict(type='FPN', n=5), k=[1, 2])\nlr = 1", "b/model.py")
    write("epochs = 12", "b/schedule.py")
    write("_base_ = ['../b/model.py', '../b/schedule.py']\nmodel = dict(k=[3])", "m/mid.py")
    cfg = read("_base_ = './mid.py'\nmodel = dict(neck=dict(n=4))\nlr = 2", "m/top.py")
    assert cfg._cfg_dict == {"model": {"type": "A", "neck": {"type": "FPN", "n": 4}, "k": [3]},
                             "lr": 2, "epochs": 12}
    assert list(cfg) == ["model", "lr", "epochs"]
    assert "epochs = 12" in cfg.text
    assert cfg.filename.endswith("top.py")


def test_delete_replaces_the_base(write, read):
    write("a = dict(type='A', x=1, b=dict(c=1))", "base.py")
    cfg = read("_base_ = './base.py'\n"
               "a = dict(_delete_=True, type='B', b=dict(_delete_=True, d=2))\n"
               "new = dict(_delete_=True, y=[dict(_delete_=True, z=1)])")
    assert cfg.a == {"type": "B", "b": {"d": 2}}
    assert cfg.new == {"y": [{"z": 1}]}
    assert read("_base_ = './base.py'\na = dict(_delete_=False, x=2)").a.type == "A"


def test_a_dict_cannot_inherit_from_another_type(write, read):
    write("a = [1]\nb = None", "base.py")
    with pytest.raises(ConfigError, match=r"a=\{'x': 1\} in child config cannot inherit from base "
                                          r"because a is a dict .* You may set `_delete_=True`"):
        read("_base_ = './base.py'\na = dict(x=1)")
    assert read("_base_ = './base.py'\na = dict(_delete_=True, x=1)").a == {"x": 1}
    assert read("_base_ = './base.py'\na = 3").a == 3


def test_bases_may_not_repeat_keys(write, read):
    write("a = 1", "one.py")
    write("a = 2", "two.py")
    with pytest.raises(ConfigError, match=r"Duplicate key is not allowed among bases.*: a$"):
        read("_base_ = ['one.py', 'two.py']")


def test_a_cycle_of_bases(write, read):
    write("_base_ = 'two.py'", "one.py")
    with pytest.raises(ConfigError, match=r"its own _base_ \(two\.py -> one\.py -> two\.py\)"):
        read("_base_ = 'one.py'", "two.py")
    with pytest.raises(ConfigError, match="its own _base_"):
        read("_base_ = 'self.py'", "self.py")


def test_references_to_the_base(write, read):
    write("a = dict(b=dict(c=[1, 2]))\nn = 4", "base.py")
    cfg = read("_base_ = './base.py'\nx = {{_base_.a.b.c}}\n"
               "y = dict(p={{ _base_.n }}, q=({{_base_.n}},))\n"
               "z = x\nw = [{{_base_.a.b}}] * 2")
    assert (cfg.x, cfg.y, cfg.z) == ([1, 2], {"p": 4, "q": (4,)}, [1, 2])
    assert cfg.w == [{"c": [1, 2]}] * 2
    with pytest.raises(ConfigError, match=r"config\.py:2: _base_\.a\.d is not in the base config"):
        read("_base_ = './base.py'\nx = {{_base_.a.d}}")


def test_file_variables(read, tmp_path):
    cfg = read("a = '{{ fileDirname }}/x'\n"
               "b = ['{{fileBasename}}', '{{ fileBasenameNoExtension }}']\n"
               "c = '{{fileExtname}}{{ other }}'")
    assert cfg.a == f"{tmp_path}/x"
    assert cfg.b == ["config.py", "config"]
    assert cfg.c == ".py{{ other }}"


def test_json(write, read):
    write("a = dict(b=[1, 2], c=3)", "base.py")
    cfg = read('{"_base_": "./base.py", "a": {"c": {{ _base_.a.b }}}, '
               '"f": "{{ fileBasename }}"}', "c.json")
    assert cfg.a == {"b": [1, 2], "c": [1, 2]}
    assert cfg.f == "c.json"
    for text, part in (("[1]", "must be a dict"), ("{", r"c\.json:1: the file is not JSON"),
                       ("[" * 100_000, "nested too deeply")):
        with pytest.raises(ConfigError, match=part):
            read(text, "c.json")


def test_config_is_a_dict_with_attributes(tmp_path):
    cfg = Config({"a": {"b": [{"c": 1}], "t": ({"d": 2},)}, "n": None}, filename="f.py")
    assert cfg.a.b[0].c == 1
    assert cfg.a.t[0].d == 2
    assert cfg.get("z", 5) == 5
    assert cfg.a.get("z") is None
    assert "a" in cfg
    assert len(cfg) == 2
    cfg.x = {"y": 1}
    cfg["z"] = {"y": 2}
    assert cfg.x.y + cfg.z.y == 3
    del cfg.a.b
    assert "b" not in cfg.a
    with pytest.raises(AttributeError, match="'ConfigDict' object has no attribute 'q'"):
        _ = cfg.q
    with pytest.raises(AttributeError, match="no attribute 'q'"):
        del cfg.a.q
    with pytest.raises(AttributeError, match="method"):
        cfg.a.items = 1
    with pytest.raises(KeyError, match="reserved"):
        Config({"filename": 1})
    with pytest.raises(TypeError, match="must be a dict"):
        Config([1])
    for twin in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert twin._cfg_dict == cfg._cfg_dict
        assert twin.filename == "f.py"
        assert isinstance(twin.x, ConfigDict)
    assert repr(cfg).startswith("Config (path: f.py): {")


def test_config_dict_copies_and_merges():
    d = ConfigDict(a={"b": 1}, l=[{"c": 2}])
    assert type(d.to_dict()["l"][0]) is dict
    shallow, deep = d.copy(), d.deepcopy()
    d.a.b = 9
    assert (shallow.a.b, deep.a.b) == (9, 1)
    d.update({"a": {"x": 2}}, n={"m": 1})
    assert d.a == {"b": 9, "x": 2}
    assert d.n.m == 1


def test_merge_from_dict():
    cfg = Config({"model": {"depth": 50, "norm": {"type": "BN"}}, "steps": [{"x": 1}, {"x": 2}]})
    cfg.merge_from_dict({"model.depth": 101, "model.new.key": 1, "steps.1.x": 3, "steps.0": 7})
    assert cfg.model == {"depth": 101, "norm": {"type": "BN"}, "new": {"key": 1}}
    assert cfg.steps == [7, {"x": 3}]
    cfg.merge_from_dict({"model.norm": {"_delete_": True, "type": "GN"}})
    assert cfg.model.norm == {"type": "GN"}
    with pytest.raises(KeyError, match="Index 5 exceeds the length"):
        cfg.merge_from_dict({"steps.5.x": 1})
    with pytest.raises(TypeError, match="no index"):
        cfg.merge_from_dict({"steps.a.x": 1})
    with pytest.raises(TypeError, match="cannot inherit"):
        cfg.merge_from_dict({"steps.0.x": 1}, allow_list_keys=False)
    with pytest.raises(TypeError, match="given a value too"):
        cfg.merge_from_dict({"a": 1, "a.b": 2})


scalars = (st.none() | st.booleans() | st.integers(-2**63, 2**63) | st.floats(allow_nan=False)
           | st.text(st.characters(exclude_characters="{", codec="utf-8"), max_size=8))
# Keys are text without braces too: "{{ fileDirname }}" is no literal of a config.
keys = st.text(st.characters(exclude_characters="{", codec="utf-8"), max_size=6).filter(
    lambda k: k != "_delete_")
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple)
    | st.dictionaries(keys, inner, max_size=4), max_leaves=12)


finite = values.filter(lambda v: "inf" not in repr(v))  # repr(float('inf')) is a name


@given(finite)
def test_literals_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("config") / "config.py"
    path.write_text(f"x = {value!r}", encoding="utf-8")
    assert Config.fromfile(path).x == value


@given(st.dictionaries(st.sampled_from("abc"), values, max_size=3))
def test_dump_round_trips(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("config") / "config.py"
    Config(content).dump(path)
    assert Config.fromfile(path)._cfg_dict == content
    assert Config(content).dump() == path.read_text(encoding="utf-8")


json_values = st.dictionaries(st.sampled_from("abc"), st.recursive(
    scalars.filter(lambda v: not isinstance(v, float) or math.isfinite(v)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8), max_size=3)


@given(json_values)
def test_json_round_trips(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(content))
    assert Config.fromfile(path)._cfg_dict == content


flat = st.recursive(st.integers(0, 3), lambda inner: st.dictionaries(st.sampled_from("ab"), inner),
                    max_leaves=5)


def overridden(base, child):
    """The rule in one sentence: dicts are merged, anything else is replaced."""
    if not (isinstance(base, dict) and isinstance(child, dict)):
        return child
    return {k: overridden(base[k], child[k]) if k in base and k in child
            else child.get(k, base.get(k)) for k in [*base, *(c for c in child if c not in base)]}


@given(st.dictionaries(st.sampled_from("ab"), flat), st.dictionaries(st.sampled_from("ab"), flat))
def test_merging(tmp_path_factory, base, child):
    folder = tmp_path_factory.mktemp("config")
    (folder / "base.py").write_text(Config(base).pretty_text)
    (folder / "child.py").write_text("_base_ = 'base.py'\n" + Config(child).pretty_text)

    def clashes(b, c):
        return any(isinstance(c[k], dict) and (not isinstance(b[k], dict) or clashes(b[k], c[k]))
                   for k in b.keys() & c.keys())

    if clashes(base, child):
        with pytest.raises(ConfigError, match="cannot inherit from base"):
            Config.fromfile(folder / "child.py")
    else:
        assert Config.fromfile(folder / "child.py")._cfg_dict == overridden(base, child)
