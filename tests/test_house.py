"""The rules of the house: what may import what, what an import may touch, what must be listed."""

import ast
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Packages from the ground up. An import goes down or stays on its floor.
FLOORS = [{"kernels", "version", ""}, {"utils"}, {"runner"}, {"cnn"}, {"ops"}, {"core"},
          {"models"}, {"mmcv"}, {"datasets"}, {"apis"}, {"compat"}, {"testing"},
          {"benchmarks", "cli", "__main__"}]

#: Folders of the top level that install below fastdet, and are symlinks there in a checkout.
LINKED = ("kernels", "benchmarks")

SOURCES = sorted(
    [path for folder in LINKED for path in ROOT.glob(f"{folder}/**/*.py")]
    + [path for path in ROOT.glob("fastdet/**/*.py")
       if path.relative_to(ROOT).parts[1] not in LINKED])

#: What the files of an operator's folder are; nothing else lies there.
ROLES = {
    "__init__.py": "its public names",
    "README.md": "formula, grid, what is saved, limits, measured figures",
    "reference.py": "the definition, which one reads beside the paper",
    "kernel.py": "the Triton kernels alone",
    "op.py": "checks, custom ops, launches",
    "cpu.py": "the CPU's own path, where it was measured to be faster than the definition",
    "tables.py": "constants that the operator keeps on a device",
}

#: Private names that cross packages: mmcv's own, which its users import.
BORROWED = {"_load_checkpoint", "_load_checkpoint_with_prefix"}


def module_of(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] in LINKED:
        parts.insert(0, "fastdet")
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports_of(path):
    """Absolute dotted names of everything a file imports, at any depth of its code."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])


def floor_of(parts):
    name = parts[1] if len(parts) > 1 else ""
    return next(i for i, floor in enumerate(FLOORS) if name in floor)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    here = floor_of(module_of(path))
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "fastdet":
            assert floor_of(parts) <= here, f"{path.name} imports {name}, which stands above it"


@pytest.mark.parametrize("path", [p for p in SOURCES if "kernels" in p.parts],
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_kernels_import_torch_and_triton_alone(path):
    known = {"fastdet", "torch", "triton", "__future__"} | set(sys.stdlib_module_names)
    if path.name == "cpu.py":
        known.add("numpy")  # its calls cost less than torch's: a CPU path may be many small ones
    tops = {name.partition(".")[0] for name in imports_of(path)}
    assert tops <= known, tops - known
    if path.name == "kernel.py":
        assert "torch" not in tops, "kernel.py imports triton alone"
    elif "triton" in tops:
        at_import = [ast.unparse(n) for n in ast.parse(path.read_text()).body
                     if isinstance(n, (ast.Import, ast.ImportFrom))]
        assert not [line for line in at_import if "triton" in line], "import triton where needed"


def test_every_operator_is_whole():
    folders = [p for p in (ROOT / "kernels").iterdir() if (p / "kernel.py").exists()]
    assert folders
    for folder in folders:
        for name in ("__init__.py", "reference.py", "op.py", "README.md"):
            assert (folder / name).exists(), f"kernels/{folder.name} has no {name}"
        odd = {path.name for path in folder.iterdir()} - set(ROLES) - {"__pycache__"}
        assert not odd, f"kernels/{folder.name}: {odd} has no role, those are {', '.join(ROLES)}"
        test = ROOT / "tests" / "kernels" / f"test_{folder.name}.py"
        assert test.exists(), f"kernels/{folder.name} has no {test.name}"
        ledger = ROOT / "benchmarks" / "ledger" / f"{folder.name}.json"
        assert ledger.exists(), f"kernels/{folder.name} is not in the ledger"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_private_names_stay_in_their_package(path):
    package = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        module = [*base, *(node.module.split(".") if node.module else [])]
        if module[0] == "fastdet" and module[: len(package)] != package:
            private = {alias.name for alias in node.names if re.match("_[^_]", alias.name)}
            private -= BORROWED
            assert not private, f"{path.name} takes {private} from {'.'.join(module)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_code_knows_that_it_is_tested(path):
    if path.name == "test_bench.py":  # pytest-benchmark's
        return
    text = path.read_text()
    for mark in ("pytest", "unittest.case", "PYTEST", "hypothesis"):
        assert mark not in {name.partition(".")[0] for name in imports_of(path)}
        asked = re.search(rf"""(environ|getenv|modules)\W.*{mark}""", text)
        assert not asked, f"{path.name} asks for {mark}"


@pytest.mark.parametrize("path", [
    p for p in SOURCES if {"cnn", "models", "ops", "core"} & set(module_of(p)[1:2])],
    ids=lambda p: str(p.relative_to(ROOT)))
def test_layers_take_one_path_in_every_precision(path):
    """The records are in float64: a path that only it takes is held by nothing else."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            assert "float64" not in ast.unparse(node), f"{path.name}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", [
    p for p in SOURCES if {"cnn", "models", "ops", "runner"} & set(module_of(p)[1:2])],
    ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_are_relative_in_a_package_and_absolute_across(path):
    package = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            if module[0] == "fastdet" and len(module) > 1:
                inside = module[:2] == package[:2]
                assert inside == bool(node.level), f"{path.name}: {ast.unparse(node)}"


def test_no_file_is_long():
    for path in [*SOURCES, *ROOT.glob("tests/**/*.py")]:
        name = path.relative_to(ROOT).as_posix()
        lines = len(path.read_text().splitlines())
        assert lines <= 600, f"{name} has {lines} lines, divide it"


def test_a_linked_folder_has_one_name_in_the_package():
    done = run_python("import kernels")
    assert "ImportError" in done.stderr
    assert "import fastdet.kernels" in done.stderr
    for folder in LINKED:
        assert (ROOT / "fastdet" / folder).resolve() == ROOT / folder


def run_python(code, **env):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True,
                          env={**os.environ, **env}, check=False)


def test_import_touches_neither_triton_nor_a_driver():
    code = """
import sys, time
import torch
start = time.process_time()
torch.cuda.init = torch._C._cuda_init = lambda *a: (_ for _ in ()).throw(AssertionError('driver'))
import fastdet, fastdet.core, fastdet.models, fastdet.ops, fastdet.cnn, fastdet.runner
assert 'triton' not in sys.modules
assert time.process_time() - start < 2, time.process_time() - start
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_the_reference_path_needs_no_triton():
    code = """
import sys
sys.modules['triton'] = None
import torch, fastdet
from fastdet.core.anchor import AnchorGenerator
AnchorGenerator([8], [1.0], [4.0]).grid_priors([(2, 3)], device='cpu')
with fastdet.backend('triton'):
    try:
        AnchorGenerator([8], [1.0], [4.0]).grid_priors([(2, 3)], device='cpu')
    except fastdet.BackendError as e:
        print(e)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "triton is not installed" in done.stdout


def test_unknown_backend_is_refused():
    done = run_python("import fastdet", FASTDET_BACKEND="cuda")
    assert done.returncode != 0
    assert "FASTDET_BACKEND: unknown backend 'cuda', expected one of auto" in done.stderr


def test_every_variable_is_documented():
    documented = set(re.findall(r"`(FASTDET_\w+)`", (ROOT / "ENVIRONMENT.md").read_text()))
    used = set()
    for path in [*SOURCES, *ROOT.glob("benchmarks/*.sh")]:
        used |= set(re.findall(r"\bFASTDET_[A-Z_]+\b", path.read_text()))
    assert used == documented


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_kernels(tmp_path):
    for kind in ("bdist_wheel", "sdist"):
        done = subprocess.run(
            [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), kind,
             "-d", str(tmp_path)], cwd=ROOT, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    tops = {name.partition("/")[0] for name in wheel if not name.startswith("fastdet-")}
    assert tops == {"fastdet"}
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        sdist = archive.getnames()
    for path in [path for folder in LINKED for path in ROOT.glob(f"{folder}/**/*.py")]:
        inside = path.relative_to(ROOT).as_posix()
        assert f"fastdet/{inside}" in wheel
        assert any(name.endswith(f"/{inside}") for name in sdist)
    for path in (ROOT / "benchmarks" / "ledger").glob("*.json"):
        assert f"fastdet/benchmarks/ledger/{path.name}" in wheel
