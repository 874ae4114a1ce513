"""The nightly job: what it runs, and that the worst of it is what it says."""

import pytest

from benchmarks import nightly
from benchmarks.nightly import Step, run_steps
from fastdet import cli


def step(name, code, limit=60):
    return Step(name, ("-c", code), limit)


def test_the_worst_step_decides(tmp_path):
    good = step("Is it good?", "print('fine')")
    assert run_steps([good], tmp_path) == 0
    assert "all passed" in (tmp_path / "summary.md").read_text()
    bad = step("Is it slower?", "import sys; print('row 7 is slower'); sys.exit(2)")
    crash = step("Does it crash?", "import os; os.abort()")
    slow = step("Is it done?", "import time; time.sleep(60)", 0.5)
    assert run_steps([bad, good, crash, slow], tmp_path) == 2
    said = (tmp_path / "summary.md").read_text()
    assert "FAILED" in said
    assert "row 7 is slower" in said
    assert "| Is it slower? | failed with 2 |" in said
    assert "| Does it crash? | failed with -6 |" in said
    assert "| Is it done? | took more than 0 s |" in said
    assert run_steps([crash], tmp_path) == 1


def test_it_is_a_command(capsys):
    assert cli.main(["nightly", "--help"]) == 0
    assert "usage: fastdet nightly" in capsys.readouterr().out
    assert cli.main(["nightly", "--base", "/no/such/folder"]) == 2


def test_what_it_runs(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(nightly, "run_steps", lambda todo, out: ran.extend(todo) or 0)
    assert nightly.main(["--base", str(tmp_path), "--diff", str(tmp_path), "dyrelu"]) == 0
    commands = [" ".join(each.command) for each in ran]
    assert [c.split()[1:3] for c in commands] == [
        ["fastdet", "verify"], ["fastdet.benchmarks.ledger", "--targets"],
        ["fastdet.benchmarks.ledger", "--diff"], ["fastdet", "bench"]]
    assert commands[-1].endswith(f"--compare {tmp_path} dyrelu")
    with pytest.raises(SystemExit):
        nightly.main(["--base", str(tmp_path / "none")])
    assert "there is no" in capsys.readouterr().err
