"""The benchmarks' own machinery: entries, the refusal to time what is wrong, files and plots."""

import math
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import apart, checks, clock, compare, plot, records, registry, runner, suite
from benchmarks.records import Row
from benchmarks.registry import DTYPES, ENTRIES, Entry, Provider, Work, differentiate, leaves

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
QUICK = runner.Plan(seconds=0.0, reps=(2, 2))

CELLS = [(name, dtype) for name, entry in ENTRIES.items() for dtype in entry.dtypes]


@pytest.mark.parametrize(("name", "dtype"), CELLS)
def test_providers_of_every_entry_agree(name, dtype):
    entry = ENTRIES[name]
    plain = [who for who, provider in entry.providers.items() if not provider.compiled]
    rows = runner.measure(entry, "tiny", dtype, CPU, replace(QUICK, providers=plain))
    passes = 2 if entry.trains else 1
    assert len(rows) == passes * len(plain)
    for row in rows:
        assert row.status == "ok", f"{row.provider} {row.passes}: {row.note}"
        assert row.p20_us <= row.p50_us <= row.p80_us


def test_compiled_providers_are_compiled():
    rows = runner.measure_compiled(ENTRIES["grid_points"], "tiny", "fp32", CPU,
                                   replace(QUICK, compiler="aot_eager"))
    assert [(row.provider, row.status) for row in rows] == [("compile", "ok")]
    assert rows[0].first_call_ms > 20 * rows[0].p50_us / 1e3, "nothing was compiled"


def test_a_compiler_that_fails_leaves_a_cell_that_says_so():
    rows = runner.measure_compiled(ENTRIES["grid_points"], "tiny", "fp32", CPU,
                                   replace(QUICK, compiler="no such compiler"))
    assert [(row.provider, row.passes, row.status) for row in rows] == [
        ("compile", "fwd", "error")]
    assert "no such compiler" in rows[0].note
    rows = runner.measure_compiled(ENTRIES["grid_points"], "tiny", "fp32", CPU, QUICK, limit=0.01)
    assert rows[0].note == "took more than 0 s"


def test_a_crash_in_another_process_is_an_answer():
    assert apart.apart(math.gcd, 12, 18, limit=60) == 6
    with pytest.raises(apart.Crashed, match="ended by SIGABRT"):
        apart.apart(os.abort, limit=60)
    with pytest.raises(apart.Crashed, match="took more than 1 s"):
        apart.apart(time.sleep, 60, limit=1)
    with pytest.raises(apart.Crashed, match="ValueError: math domain error"):
        apart.apart(math.sqrt, -1, limit=60)


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_are_whole(name):
    entry = ENTRIES[name]
    assert entry.kind in ("operator", "component")
    assert {"eager", "fastdet"} <= entry.providers.keys()
    assert set(entry.dtypes) <= set(DTYPES)
    assert entry.cpu, "a shape that a CPU can do"
    assert not entry.cpu.keys() & {"tiny"}
    for case in entry.ledger:
        shape, _, dtype = case.rpartition("/")
        assert shape in entry.shapes
        assert dtype in entry.dtypes
    for (kernel, what), reason in entry.exceptions.items():
        assert kernel.endswith("_kernel")
        assert what in ("f64", "spills")
        assert len(reason) > 10
    if entry.work:
        for shape in entry.shapes.values():
            forward, both = (entry.work(dtype=torch.float16, backward=b, **shape)
                             for b in (False, True))
            assert 0 < forward.bytes <= both.bytes
            assert 0 <= forward.flops <= both.flops
    if entry.kind == "operator":
        assert entry.kernels
        assert (ROOT / "kernels" / entry.operator / "op.py").exists()


def double(x):
    return x["x"] * 2


def toy(exact=False, **providers):
    def make(*, dtype, device, n):
        return {"x": torch.randn(n, device=device, dtype=dtype).requires_grad_()}

    return Entry("toy", {"real": {"n": 64}}, {"n": 8}, make,
                 {"eager": Provider(double), **{k: Provider(v) for k, v in providers.items()}},
                 exact=exact, work=lambda dtype, backward, n: Work(2 * n * dtype.itemsize, n))


def status(entry, dtype="fp32"):
    rows = runner.measure(entry, "tiny", dtype, CPU, QUICK)
    return {(row.provider, row.passes): row for row in rows}


def test_no_figure_for_a_wrong_result():
    rows = status(toy(fastdet=lambda x: x["x"] * 2.001))
    for passes in runner.PASSES:
        red = rows["fastdet", passes]
        assert (red.status, red.p50_us, red.reps) == ("wrong", None, None)
        assert "error" in red.note
        assert rows["eager", passes].p50_us > 0


def test_no_figure_for_a_wrong_gradient():
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad

    rows = status(toy(fastdet=lambda x: Halved.apply(x["x"])))
    assert rows["fastdet", "fwd"].status == "ok"
    assert rows["fastdet", "fwd+bwd"].status == "wrong"
    assert rows["fastdet", "fwd+bwd"].p50_us is None


def test_components_are_checked_as_one_pool():
    truth = [torch.randn(1000, dtype=torch.float64), None, 1e-3 * torch.randn(10).double()]

    def off(by):
        return [None if t is None else t + by * t.square().mean().sqrt() * torch.randn(len(t))
                for t in truth]

    eager = off(1e-3)
    checks.check_component(torch.float32, off(1e-3), eager, truth)
    with pytest.raises(checks.Wrong, match="all tensors"):
        checks.check_component(torch.float32, off(3e-3), eager, truth)
    with pytest.raises(checks.Wrong, match="shapes"):
        checks.check_component(torch.float32, [truth[0], truth[0], truth[2]], eager, truth)
    wrong = [eager[0], None, 2 * eager[2]]
    with pytest.raises(checks.Wrong, match="all tensors"):
        checks.check_component(torch.float32, wrong, eager, truth)


def test_a_missing_or_extra_result_is_wrong():
    assert status(toy(fastdet=lambda x: [double(x), double(x)]))["fastdet", "fwd"].status == "wrong"
    detached = status(toy(fastdet=lambda x: double(x).detach()))
    assert detached["fastdet", "fwd+bwd"].status == "error"


def test_exact_entries_need_every_bit_of_fastdet_alone():
    def nearly(x):
        return torch.nextafter(x["x"] * 2, torch.tensor(torch.inf))

    rows = status(toy(exact=True, fastdet=nearly, compile=nearly))
    assert rows["fastdet", "fwd"].status == "wrong"
    assert rows["compile", "fwd"].status == "ok"


def test_a_provider_that_raises_leaves_an_empty_cell():
    def fails(x):
        raise RuntimeError("no such kernel")

    row = status(toy(sdpa=fails, fastdet=double))["sdpa", "fwd"]
    assert (row.status, row.p50_us) == ("error", None)
    assert row.note == "RuntimeError: no such kernel"


def test_the_path_is_checked():
    entry = ENTRIES["grid_priors"]
    checks.check_path(entry, "fastdet", ["memset", "grid_anchors_fwd_kernel"])
    checks.check_path(entry, "eager", ["elementwise_kernel"])
    with pytest.raises(checks.Wrong, match="no kernel"):
        checks.check_path(entry, "fastdet", ["elementwise_kernel"])
    with pytest.raises(checks.Wrong, match="ran fastdet's kernels"):
        checks.check_path(entry, "eager", ["grid_anchors_fwd_kernel"])


def test_command_line_fails_on_red_and_keeps_the_row(monkeypatch, tmp_path, capsys):
    wrong, good = toy(fastdet=lambda x: x["x"] * 3), replace(toy(fastdet=double), name="good")
    monkeypatch.setattr(suite, "ENTRIES", {"toy": wrong, "good": good})
    common = ["--device", "cpu", "--dtypes", "fp32", "--seconds", "0"]
    assert suite.main(["good", *common, "--out", str(tmp_path / "good")]) == 0
    assert suite.main(["toy", *common, "--out", str(tmp_path / "red")]) == 1
    assert "red" in capsys.readouterr().err
    red = [row for row in records.load(tmp_path / "red") if row.provider == "fastdet"]
    assert {row.status for row in red} == {"wrong"}
    assert {row.p50_us for row in red} == {None}
    with pytest.raises(SystemExit, match="unknown entry"):
        suite.main(["nothing", *common])


def test_gradients_are_of_every_leaf_and_the_same_cotangents():
    inputs = ENTRIES["fpn"].make(dtype=torch.float32, device=CPU, **ENTRIES["fpn"].tiny)
    run = ENTRIES["fpn"].providers["fastdet"].run
    first, second = differentiate(run, inputs), differentiate(run, inputs)
    assert len(first) == len(leaves(inputs)) > 4
    for a, b in zip(first, second):
        assert torch.equal(a, b)


def test_the_floor_is_the_larger_of_bytes_and_operations():
    ceiling = {"bytes": 1e9, "fp32": 1e9}
    rows = runner.measure(toy(fastdet=double), "real", "fp32", CPU, QUICK, ceiling)
    for row in rows:
        assert row.floor_us == pytest.approx(2 * 64 * 4 / 1e9 * 1e6)
        assert row.share_of_floor == pytest.approx(row.floor_us / row.p50_us)


WHERE = {"torch": "2.9.0+cu130", "triton": "3.5", "device": "A GPU (80 GB)"}


def rows_of(scale=1.0):
    def row(provider, p50):
        return Row("op", "operator", "real", "fp16", provider, "fwd", "kernel", 0.9 * p50 * scale,
                   p50 * scale, 1.1 * p50 * scale, reps=50, floor_us=2.0,
                   speedup=40.0 / p50, speedup_low=39.0 / p50, speedup_high=41.0 / p50,
                   share_of_floor=2.0 / (p50 * scale), launches=3, **WHERE)

    red = Row("op", "operator", "real", "fp16", "sdpa", "fwd", "kernel", status="wrong",
              note="off, by far", **WHERE)
    return [row("eager", 40.0), row("fastdet", 10.0), red]


def test_rows_survive_their_file(tmp_path):
    csv_path, json_path = records.save(rows_of(), tmp_path, WHERE)
    assert csv_path.name == "op--fp16--torch2.9.0+cu130--triton3.5--A-GPU-80-GB-.csv"
    assert json_path.exists()
    assert records.load(csv_path) == records.load(tmp_path) == rows_of()
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns"):
        records.load(tmp_path / "other.csv")
    with pytest.raises(ValueError, match="not a result file"):
        records.load(tmp_path / "none.csv")


def test_table_has_ratios_and_leaves_red_cells_empty():
    lines = records.table(rows_of()).splitlines()
    assert "4.00" in lines[2]
    assert "20%" in lines[2]
    assert "WRONG off, by far" in lines[3]
    assert "0.0" not in lines[3]


def test_summary_is_one_line_per_cell(tmp_path, capsys):
    records.save(rows_of(), tmp_path, WHERE)
    assert records.main(["--short", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (
        "op real fp16 fwd kernel | eager 40.0 fastdet 10.0 sdpa wrong x4.00 20%\n")


def verdicts(before, after, **options):
    return {v.row.provider: v.word for v in compare.compare(before, after, **options)}


def test_compare_finds_a_fifth_slower_and_no_noise():
    tight = [replace(row, p20_us=row.p50_us and 0.99 * row.p50_us,
                     p80_us=row.p50_us and 1.01 * row.p50_us) for row in rows_of()]
    slow = [replace(row, **{k: getattr(row, k) and 1.2 * getattr(row, k)
                            for k in ("p20_us", "p50_us", "p80_us")}) for row in tight]
    assert verdicts(tight, slow) == {"eager": "slower", "fastdet": "slower"}
    assert verdicts(slow, tight) == {"eager": "faster", "fastdet": "faster"}
    assert set(verdicts(tight, slow, threshold=0.3).values()) == {"no difference"}
    assert set(verdicts(rows_of(), rows_of(1.15)).values()) == {"no difference"}, "noise"
    red = [replace(row, p50_us=None, status="wrong") for row in tight]
    assert verdicts(tight, red) == {"eager": "gone", "fastdet": "gone"}
    assert verdicts(tight, []) == {}


def test_compare_has_an_exit_code(tmp_path, capsys):
    def folder(name, rows):
        records.save(rows, tmp_path / name, {**WHERE, "device": rows[0].device})
        return str(tmp_path / name)

    base, fast = folder("base", rows_of()), folder("fast", rows_of(0.5))
    assert compare.main([base, fast]) == 0
    assert "2.00   faster" in capsys.readouterr().out
    assert compare.main([fast, base]) == 1
    moved = folder("moved", [replace(row, device="B GPU") for row in rows_of()])
    assert compare.main([base, moved]) == 2
    said = capsys.readouterr()
    assert "A GPU (80 GB) -> B GPU" in said.out
    assert "the hardware is another" in said.err
    assert compare.main([base, moved, "--across-hardware"]) == 0
    other = folder("other", [replace(row, shape="other") for row in rows_of()])
    assert compare.main([base, other]) == 2


def test_the_interval_of_a_median_holds_it_and_shrinks():
    values = [float(i % 10) for i in range(100)]
    low, middle, high = clock.median_interval(values)
    assert low <= middle == 4.5 <= high
    assert high - low <= 3
    assert clock.median_interval([1.0, 5.0]) == (1.0, 3.0, 5.0)
    words = [records.speedup(replace(rows_of()[1], speedup=1.1, speedup_low=low,
                                     speedup_high=1.3)) for low in (0.9, 1.05)]
    assert words == ["1.10 no difference", "1.10"]


def test_plots_are_drawn_from_the_files(tmp_path):
    pytest.importorskip("matplotlib")
    records.save(rows_of(), tmp_path, WHERE)
    assert plot.main([str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    for name in ("op, fp16: speed", "op, fp16: share of the roofline floor"):
        assert f'alt="{name}" src="data:image/png;base64,' in page
    assert "A GPU (80 GB)" in page
    assert not re.search(r'(src|href)="(?!data:)', page), "the page needs another file"


def test_scaling_and_rooflines_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    row = replace(rows_of()[1], op="dyrelu", provider="fastdet", mode="call", p50_us=100.0,
                  shape=next(iter(ENTRIES["dyrelu"].cpu)), passes="fwd",
                  speedup_low=1.1, speedup=1.2, speedup_high=1.3)
    swin = [replace(row, op="swin_t", shape=shape, p50_us=p50) for shape, p50 in (
        ("160x240_b1", 1e4), ("320x480_b1", 4e4), ("160x240_b4", 5e4))]
    ceiling = {"bytes": 1e10, row.dtype: 1e11}
    page = plot.plot([row, *swin], tmp_path, ceiling).read_text()
    for name in ("fastdet&#x27;s speed over eager&#x27;s, fwd, call",
                 f"Roofline, {row.dtype}, call", f"swin_t, {row.dtype}, fwd: time over images",
                 f"swin_t, {row.dtype}, fwd: time over pixels of an image"):
        assert f'alt="{name}"' in page


def test_a_cpus_peak_memory_and_ceilings():
    a = torch.empty(1 << 20)
    assert clock.host_peak(lambda: (a + 1).sum() + (a + 2).sum()) == pytest.approx(4 << 20, rel=0.1)
    found = clock.ceilings(CPU)
    assert found.keys() == {"bytes", "fp32", "bf16"}
    assert all(value > 1e8 for value in found.values())


def test_the_gpu_script_is_sound():
    script = ROOT / "benchmarks" / "gpu.sh"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert not [name for name in ENTRIES if f" {name} " in text], "the script reads the table"


@pytest.mark.parametrize(("arguments", "some", "none"), [
    (["--kind", "component"], "swin_t", "carafe"), (["--no-trains"], "grid_priors", "carafe"),
    (["--kind", "operator", "--trains"], "carafe", "grid_priors"),
    (["--provider", "sdpa"], "window_attention", "carafe")])
def test_the_table_prints_its_names(arguments, some, none, capsys):
    assert registry.main(arguments) == 0
    names = capsys.readouterr().out.split()
    assert some in names
    assert none not in names
    assert set(names) <= set(ENTRIES)


@pytest.mark.parametrize("folder", ["operators", "components"])
def test_every_file_of_the_table_is_an_entry(folder):
    files = {path.stem for path in (ROOT / "benchmarks" / folder).glob("*.py")} - {"__init__"}
    kind = [entry for entry in ENTRIES.values() if entry.kind == folder.removesuffix("s")]
    assert len(files) == len(kind)
    if folder == "operators":
        assert files == {entry.name for entry in kind}
