"""The README does what it says: its snippets run as pasted, its links lead somewhere."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


def test_snippets_run():
    assert len(SNIPPETS) >= 3
    # Each in a namespace of its own, all in one process: importing torch takes longer than they do.
    code = "\n".join(f"exec(compile({text!r}, 'snippet {i}', 'exec'), {{}})"
                     for i, text in enumerate(SNIPPETS))
    done = subprocess.run([sys.executable, "-W", "error::DeprecationWarning:fastdet", "-c", code],
                          cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(1, 256, 12, 16)" in done.stdout or "(1, 16, 12, 16)" in done.stdout


def test_every_operator_shows_its_use():
    for page in sorted((ROOT / "kernels").glob("*/README.md")):
        snippets = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
        assert snippets, f"{page.parent.name} shows no use"
        for text in snippets:
            exec(compile(text, str(page), "exec"), {})


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ENVIRONMENT.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    headings = {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
                for h in re.findall(r"^#+ (.*)$", text, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_commands_of_the_readme_exist():
    from fastdet.cli import _parser

    section = README.split("## Command line")[1].split("## ")[0]
    section = re.sub(r"^ {4}fastdet bench.*$", "", section, flags=re.M)  # it has its own parser
    told = set(re.findall(r"--[a-z][a-z-]+", section))
    commands = _parser()._subparsers._group_actions[0].choices
    text = "".join(command.format_help() for command in commands.values())
    assert told
    assert not [option for option in told if option not in text]
    targets = re.findall(r"^ {4}make (\S+)", README, re.M)
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_the_pictures_are_small():
    assert README.index("docs/detections.png") < README.index("## ")
    for name in ("detections.png", "features.png", "benchmarks.svg"):
        assert f"docs/{name}" in README
        assert 5_000 < (ROOT / "docs" / name).stat().st_size < 300_000


@pytest.mark.slow
def test_the_source_archive_tests_itself(tmp_path):
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "sdist", "-d",
         str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = next(p for p in tmp_path.iterdir() if (p / "setup.py").exists())
    inside = {p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
                            check=False)
    for name in listed.stdout.split():  # empty outside a repository
        if name.startswith(("tests/", "kernels/", "benchmarks/", "docs/")):
            assert name in inside or (ROOT / name).is_dir() or not (ROOT / name).exists(), name
    assert "![" not in (unpacked / "PKG-INFO").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "tests/test_readme.py::test_links_lead_somewhere", "tests/utils/test_config_semantics.py",
         "tests/test_house.py::test_every_variable_is_documented",
         "tests/cli/test_cli.py::test_list_models"],
        cwd=unpacked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
