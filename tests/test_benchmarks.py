"""The benchmarks' own machinery: entries, the refusal to time what is wrong, files and plots."""

import math
import os
import re
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from benchmarks import apart, charts, checks, clock, compare, plot, records, registry, runner, suite
from benchmarks.entry import KINDS, MODES
from benchmarks.records import Row
from benchmarks.registry import DTYPES, ENTRIES, Entry, Provider, Work, differentiate, leaves
from fastdet import cli

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
    assert entry.kind in KINDS
    assert {"eager", "fastdet"} <= entry.providers.keys()
    assert set(entry.dtypes) <= set(DTYPES)
    assert entry.cpu, "a shape that a CPU can do"
    assert not entry.cpu.keys() & {"tiny"}
    for case in entry.ledger:
        shape, _, kind = case.rpartition("/")
        dtype, _, mode = kind.partition("+")
        assert (shape in entry.shapes) != (shape in entry.compiled)
        assert dtype in entry.dtypes
        assert mode in MODES
    assert not entry.compiled.keys() - {case.rpartition("/")[0] for case in entry.ledger}
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


@pytest.fixture
def quick(monkeypatch):
    """No measurement of what the device reaches."""
    monkeypatch.setattr(suite, "ceilings", lambda device: {"bytes": 1e10, "fp32": 1e11})


@pytest.mark.usefixtures("quick")
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


@pytest.mark.usefixtures("quick")
def test_a_peer_that_is_not_installed_is_named_and_has_an_empty_cell(monkeypatch, tmp_path, capsys):
    entry = replace(toy(fastdet=double), absent={"mmcv": "it is not installed"})
    monkeypatch.setattr(suite, "ENTRIES", {"toy": entry})
    assert suite.main(["--device", "cpu", "--dtypes", "fp32", "--seconds", "0", "--out",
                       str(tmp_path)]) == 0
    assert "toy: mmcv is left out: it is not installed" in capsys.readouterr().out
    rows = [row for row in records.load(tmp_path) if row.provider == "mmcv"]
    assert {(row.status, row.p50_us) for row in rows} == {("absent", None)}
    assert "mmcv: absent" in (tmp_path / "index.html").read_text()


@pytest.mark.usefixtures("quick")
def test_what_the_limit_cuts_off_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(suite, "ENTRIES", {"toy": toy(fastdet=double)})
    assert suite.main(["--device", "cpu", "--limit", "0.001", "--out", str(tmp_path)]) == 0
    assert {row.status for row in records.load(tmp_path)} == {"left out"}


def test_what_a_limit_may_cut_off_comes_last(tmp_path):
    run = suite.Suite(CPU, QUICK, tmp_path, {}, 0.0, {})
    names = ["multi_scale_deformable_attention", "swin_t", "dyrelu"]
    cells = [(entry.name, entry.cpu and list(entry.cpu).index(shape), dtype)
             for entry, shape, dtype in run.cells(names, (), ())]
    assert [cell[1] for cell in cells] == sorted(cell[1] for cell in cells), "first shapes first"
    assert [dtype for _, nth, dtype in cells if nth == 0] == ["fp32"] * 3 + ["bf16"] * 2
    assert {dtype for name, _, dtype in cells if name == "swin_t"} == {"fp32"}
    asked = run.cells(names, (), ["bf16"])
    assert {dtype for *_, dtype in asked} == {"bf16"}
    assert {entry.name for entry, *_ in asked} == set(names)


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--device", "tpu"], "device 'tpu'"), (["--device", "meta"], "a cpu or a cuda device"),
    (["fpn", "--kind", "model"], "fpn is of another kind than model"),
    (["--providers", "jax"], "unknown provider 'jax', expected one of channels_last, compile,"),
    (["--shapes", "huge"], "unknown shape 'huge', expected one of"),
    (["--compare", "/no/results.csv"], "is not a result file"),
    (["--compare", str(ROOT / "docs")], "holds no results")])
def test_bad_input_is_one_sentence(arguments, sentence, capsys):
    assert cli.main(["bench", *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_other_hardware_is_refused_before_anything_is_measured(tmp_path, capsys):
    records.save(rows_of(), tmp_path, WHERE)
    assert cli.main(["bench", "--device", "cpu", "--compare", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "are of A GPU (80 GB), this is" in said.err
    assert not said.out


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


def test_the_page_is_drawn_from_the_files_and_needs_no_other(tmp_path):
    records.save(rows_of(), tmp_path, WHERE, {"ceilings": {"bytes": 1e12, "fp16": 1e14}})
    assert plot.main([str(tmp_path), "--picture", str(tmp_path / "speed.svg")]) == 0
    page = (tmp_path / "index.html").read_text()
    assert "fastdet&#x27;s speed over eager&#x27;s, kernel" in page
    assert "4.00" in page
    assert "40 µs → 10 µs" in page
    assert page.count("A GPU (80 GB)") >= 2, "hardware on every figure"
    assert "sdpa: wrong" in page
    assert "off, by far" in page
    assert "<td class=\"n\">0.0" not in page, "a red cell has no figure"
    assert not re.search(r'(src|href)="(?!#)', page), "the page needs another file"
    assert "prefers-color-scheme:dark" in page
    for picture in (*re.findall(r"<svg.*?</svg>", page), (tmp_path / "speed.svg").read_text()):
        ElementTree.fromstring(picture)


def test_scaling_rooflines_and_memory_are_drawn(tmp_path):
    row = replace(rows_of()[1], op="dyrelu", provider="fastdet", mode="call", p50_us=100.0,
                  shape=next(iter(ENTRIES["dyrelu"].cpu)), passes="fwd", peak_bytes=2**20,
                  speedup_low=1.1, speedup=1.2, speedup_high=1.3)
    swin = [replace(row, op="swin_t", shape=shape, p50_us=p50, peak_bytes=2**21)
            for shape, p50 in (
                ("160x240_b1", 1e4), ("320x480_b1", 4e4), ("160x240_b4", 5e4))]
    eager = [replace(r, provider="eager", p50_us=2 * r.p50_us, peak_bytes=2**22)
             for r in (row, *swin)]
    ceiling = {"bytes": 1e10, row.dtype: 1e11}
    page = plot.plot([row, *swin, *eager], tmp_path, ceiling).read_text()
    for name in ("fastdet&#x27;s speed over eager&#x27;s, call",
                 f"Roofline, {row.dtype}, fwd, call", f"swin_t, {row.dtype}, fwd",
                 "eager&#x27;s peak memory over fastdet&#x27;s"):
        assert f'aria-label="{name}"' in page
    assert "kilopixels of an image" in page
    assert ">images<" in page
    assert "4 → 1 MiB" in page
    assert "1e+02" not in page


def boxes_of(svg):
    """Where the texts of a chart are, by their anchors and lengths."""
    for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        width = 5.6 * len(text.text)
        left = float(text.get("x")) - {"start": 0, "middle": 0.5, "end": 1}[
            text.get("text-anchor")] * width
        yield text.text, left, left + width, float(text.get("y"))


def test_no_label_of_a_chart_lies_over_another():
    points = [charts.Point(f"operator_{i}", 1.0 + i % 3, 1e9, 1e9 * (1 + i / 40))
              for i in range(12)]
    series = [charts.Line(f"provider {i}", [(1, 1), (2, 2 + i / 100)]) for i in range(5)]
    bars = {"group": [("multi_scale_deformable_attention", "encoder_320x480_b1  bf16", {
        "fwd": charts.Bar(0.01, 0.01, 0.01, "957 ms → 2.62 s"),
        "fwd+bwd": charts.Bar(900.0, 1, 1000, "12.3 ms → 45.6 ms")})]}
    for svg in (charts.roofline("a", points, 1e10, 1e11, "here"),
                charts.lines("b", "x", "ms", series, "here"),
                charts.ratios("c", ["fwd", "fwd+bwd"], bars, "here")):
        found = list(boxes_of(svg))
        for i, (text, left, right, y) in enumerate(found):
            for other, start, end, height in found[:i]:
                assert abs(y - height) >= 9 or right <= start or end <= left, (text, other)


@pytest.mark.parametrize(("low", "high", "log"), [
    (0, 7.3, False), (0, 1.2e5, False), (0.24, 17, True), (1e6, 4e12, True), (0.3, 0.9, True)])
def test_ticks_are_few_and_apart(low, high, log):
    scale = charts.Scale(low, high, 0, 300, log)
    ticks = scale.ticks(30)
    assert 0 < len(ticks) <= 11
    assert all(low <= tick <= high for tick in ticks)
    assert all(scale(b) - scale(a) >= 30 for a, b in pairwise(ticks))


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


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_of_the_table_is_an_entry(kind):
    files = {path.stem for path in (ROOT / "benchmarks" / KINDS[kind]).glob("*.py")} - {"__init__"}
    mine = [entry.name for entry in ENTRIES.values() if entry.kind == kind]
    assert len(files) == len(mine) + len(files & registry.ABSENT.keys())
    if kind == "operator":
        assert files == set(mine)
