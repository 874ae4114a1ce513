"""The gate of the ledger: every kernel is compiled ahead of time and held to what was recorded.

``make ledger`` rewrites the records; nothing else does.
"""

import os
import re
from dataclasses import replace

import pytest
import torch

if os.environ.get("TRITON_INTERPRET", "0") == "1":
    pytest.skip("the ledger compiles kernels, this process interprets them",
                allow_module_level=True)

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from benchmarks import binary, gate, ledger, specialisations  # noqa: E402
from benchmarks.registry import ENTRIES, Entry  # noqa: E402
from benchmarks.targets import TARGETS, bound  # noqa: E402
from fastdet.kernels.launch import Launch  # noqa: E402


@pytest.mark.parametrize("job", ledger.gated_jobs(), ids="-".join)
def test_kernels_keep_their_facts(job):
    name, case, target = job
    entry = ENTRIES[name]
    now = ledger.compile_case(entry, case, target, ledger.known(entry.operator, target))
    found = gate.faults(entry, case, target, now, ledger.load(entry.operator), triton.__version__)
    assert not found, "\n".join(found)


def test_every_recorded_entry_belongs_to_a_case():
    for path in ledger.FOLDER.glob("*.json"):
        cases = {case for entry in ENTRIES.values() if entry.operator == path.stem
                 for case in entry.ledger}
        for target, entries in ledger.load(path.stem)["targets"].items():
            assert target in TARGETS, f"{path.name}: {target}"
            for key in entries:
                assert key.rpartition("/")[0] in cases, f"{path.name}: {target} {key}"


@pytest.mark.parametrize("target", [name for name, card in TARGETS.items() if card.whole])
def test_grids_count_on_places_that_there_are(target):
    """A walking grid is one wave of the programs that registers and shared memory allow."""
    for name, walking in (("window_attention", r"window_attention_(fwd|bwd)(_long)?_kernel"),
                          ("add_layer_norm", "add_layer_norm_bwd_kernel"),
                          ("merge_layer_norm", "merge_layer_norm_bwd_kernel")):
        recorded = ledger.load(name)["targets"][target]
        for case in ENTRIES[name].ledger:
            for launch in binary.record(ENTRIES[name], case, TARGETS[target]):
                kernel = launch.kernel.__name__
                if re.fullmatch(walking, kernel):
                    there = bound(recorded[f"{case}/{kernel}"], target).programs
                    places = TARGETS[target].multiprocessors * there
                    assert launch.grid[0] <= places, f"{case}/{kernel}: {launch.grid} > {places}"


#: Kernels that are compiled more than once over sixty image sizes, and why that is worth it.
FORMS = {
    "carafe_bwd_x_kernel": 2,  # columns of a source pixel are one access where rows are even
    "gaussian_targets_kernel": 3,  # whole vectors of the heatmap where its rows are even
    "gaussian_targets_cells_kernel": 2,  # and of the planes
}


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items()
                                  if specialisations.sized(entry) and not entry.folder])
def test_sizes_of_images_are_no_reason_to_compile(name):
    forms = specialisations.forms(ENTRIES[name])
    assert forms
    assert {kernel: n for kernel, n in forms.items() if n > FORMS.get(kernel, 1)} == {}


def test_a_size_that_kernels_are_specialised_for_is_found(monkeypatch):
    from fastdet.kernels.carafe.kernel import carafe_fwd_kernel

    size = next(param for param in carafe_fwd_kernel.params if param.name == "stride_xc")
    monkeypatch.setattr(size, "do_not_specialize", False)
    assert specialisations.forms(ENTRIES["carafe"])["carafe_fwd_kernel"] == 2


# --- the gate itself ---------------------------------------------------------------------------

@triton.jit(do_not_specialize=["n"])
def product_kernel(x_ptr, out_ptr, n, step, nothing_ptr, BLOCK: tl.constexpr,
                   DOUBLE: tl.constexpr, DOT: tl.constexpr = True):
    """A block's product with itself, in float64 or without matrix instructions on demand."""
    i = tl.arange(0, BLOCK)
    at = i[:, None] * BLOCK * step + i[None, :]
    x = tl.load(x_ptr + at, mask=(i < n)[:, None], other=0.0)
    if DOT:
        y = tl.dot(x, x)
    else:
        y = x.to(tl.float32) * tl.sum(x.to(tl.float32), 1)[:, None]
    if DOUBLE:
        y = 1.0 / (y.to(tl.float64) + 0.1)
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty))


def launch_of(x, n=5, step=1, num_warps=4, **constants):
    constants = {"BLOCK": 64, "DOUBLE": 0, **constants}
    out = torch.empty(64 * 64, dtype=torch.float32)
    return Launch(product_kernel, (1,), (x, out, n, step, None),
                  {**constants, "num_warps": num_warps})


def facts_of(launch, target):
    compiled = binary.compile_launch(launch, TARGETS[target])
    return compiled, binary.facts_of(compiled, launch)


def test_arguments_are_specialised_as_the_jit_does():
    x = torch.empty(64 * 64 + 8, dtype=torch.float16)
    compiled, _ = facts_of(launch_of(x[1:], n=16, step=32), "sm_90")
    assert compiled.src.signature == {
        "x_ptr": "*fp16", "out_ptr": "*fp32", "n": "i32", "step": "i32",
        "nothing_ptr": "constexpr", "BLOCK": "constexpr", "DOUBLE": "constexpr",
        "DOT": "constexpr"}
    divisible = {path[0] for path, attrs in compiled.src.attrs.items() if attrs}
    # Not x, which starts two bytes into its storage; not n, which is not to be specialised.
    assert divisible == {1, 3}
    one, _ = facts_of(launch_of(x, n=1, step=1), "sm_90")
    assert one.src.signature["step"] == "constexpr"
    assert one.src.signature["n"] == "i32"
    wide, _ = facts_of(launch_of(x, n=2**40), "sm_90")
    assert wide.src.signature["n"] == "i64"


@pytest.mark.parametrize(("target", "core"), [
    ("sm_80", "HMMA"), ("sm_90", "HGMMA"), ("sm_100", "UTCHMMA"), ("gfx942", "v_mfma")])
def test_facts_show_tensor_cores_and_float64(target, core):
    x = torch.empty(64 * 64, dtype=torch.float16)
    _, plain = facts_of(launch_of(x), target)
    assert plain["tensor_core"]
    assert all(name.startswith(core) for name in plain["tensor_core"])
    assert plain["f64"] == plain["spills"] == 0
    assert plain["registers"] > 0
    assert plain["shared"] > 0
    widest = "load_dwordx4" if target == "gfx942" else "LDG.128"
    assert any(op.endswith(widest) for op in plain["memory"]), plain["memory"]
    _, double = facts_of(launch_of(x, DOUBLE=1), target)
    assert double["f64"] > 0


def test_8_9_is_laid_out_as_8_6():
    launch = launch_of(torch.empty(64 * 64, dtype=torch.float16))
    ada = replace(TARGETS["sm_86"], arch=89, capability=(8, 9))
    there, here = (binary.compile_launch(launch, target, "llir")
                   for target in (ada, TARGETS["sm_86"]))
    assert there.metadata.target != here.metadata.target
    assert there.metadata.shared == here.metadata.shared > 0


def test_facts_show_spills():
    x = torch.empty(64 * 64, dtype=torch.float16)
    launch = launch_of(x)
    tight = Launch(launch.kernel, launch.grid, launch.args, {**launch.options, "maxnreg": 32})
    _, facts = facts_of(tight, "sm_80")
    assert facts["spills"] > 0
    assert facts["stack"] > 0


@pytest.mark.parametrize(("target", "fault", "message"), [
    ("sm_80", {}, ""), ("sm_80", {"DOT": False}, "matrix instructions HMMA -> none"),
    ("sm_90", {"num_warps": 2}, "matrix instructions HGMMA -> HMMA"),
    ("sm_80", {"DOUBLE": 1}, "float64 instructions"), ("sm_80", {"maxnreg": 32}, "spills"),
    ("sm_80", {"first": 1}, "narrowest access 128 -> 16 bits; mean access 128 -> 38 bits")],
    ids=["none", "a lost dot", "a weaker dot", "a float64 constant", "a spill", "a first number "
         "that is not aligned"])
def test_a_fault_planted_in_a_kernel_is_found(target, fault, message):
    x = torch.empty(64 * 64 + 1, dtype=torch.float16)
    before, after = (facts_of(launch_of(x[options.pop("first", 0):], **options), target)[1]
                     for options in ({}, dict(fault)))
    found = held(after, before, target=target)
    assert len(found) == bool(fault), found
    assert all(message in line for line in found), found


@pytest.mark.parametrize("target", ["sm_86", "sm_120"])
def test_tiles_that_no_consumer_card_holds_are_found(target):
    x = torch.empty(256 * 256, dtype=torch.float16)
    (_, small), = binary.distinct([launch_of(x)], TARGETS[target])
    (_, large), = binary.distinct([launch_of(x, BLOCK=256, num_warps=16)], TARGETS[target])
    assert small.keys() == {"num_warps", "shared", "grid", "config"}
    assert held(small, small, target=target) == []
    line, = held(large, small, target=target)
    assert "needs 131072 bytes of shared memory, the card has 101376" in line


def test_the_same_ptx_has_the_recorded_facts_and_another_is_compiled():
    launch = launch_of(torch.empty(64 * 64, dtype=torch.float16))
    (_, facts), = binary.distinct([launch], TARGETS["sm_90"])
    marked = {KEY: {**facts, "registers": 77, "grid": 5, "config": {}}}
    (_, same), = binary.distinct([launch], TARGETS["sm_90"], marked)
    assert same == {**facts, "registers": 77}
    changed = launch_of(torch.empty(64 * 64, dtype=torch.float16), DOUBLE=1)
    (_, other), = binary.distinct([changed], TARGETS["sm_90"], marked)
    assert other["f64"]
    assert other["ptx"] != facts["ptx"]


def test_code_does_not_change_from_compilation_to_compilation(monkeypatch, tmp_path):
    launch = launch_of(torch.empty(64 * 64, dtype=torch.float16))
    codes = set()
    for run in ("a", "b"):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / run))
        codes |= {facts_of(launch, target)[1]["code"] for target in ("sm_90", "gfx942")}
    assert len(codes) == 2


GOOD = {"num_warps": 4, "shared": 1024, "registers": 40, "stack": 0, "spills": 0,
        "tensor_core": {"HGMMA": 4}, "memory": {"LDG.128": 2, "STG.32": 1}, "f64": 0,
        "instructions": 400, "code": "0", "grid": 12 * 132}
KEY = "real/fp16/a_kernel"


def held(now, before=GOOD, version="9", exceptions=(), target="sm_90"):
    entry = Entry("toy", {}, {}, dict, {}, exceptions=dict(exceptions))
    recorded = {"triton": "9", "targets": {target: {} if before is None else {KEY: before}}}
    fresh = {} if now is None else {KEY: {**GOOD, **now}}
    return gate.faults(entry, "real/fp16", target, fresh, recorded, version)


WORSE = [
    ({"spills": 3}, "spills"), ({"f64": 1}, "float64 instructions"),
    ({"tensor_core": {"HMMA": 4}}, "matrix instructions HGMMA -> HMMA"),
    ({"tensor_core": {}}, "matrix instructions HGMMA -> none"),
    ({"registers": 46}, "registers 40 -> 46"),
    ({"registers": 44}, "resident programs 12 -> 10 (registers)"),
    ({"shared": 100 * 1024}, "resident programs 12 -> 2 (shared memory)"),
    ({"shared": 228 * 1024}, "needs 233472 bytes of shared memory"),
    ({"memory": {"LDG.64": 4}}, "widest access 128 -> 64 bits"),
    ({"memory": {"LDG.128": 2, "STG.16": 2}}, "narrowest access 32 -> 16 bits"),
    ({"memory": {"LDG.128": 1, "LDG.32": 4, "STG.32": 1}}, "mean access 96 -> 48 bits"),
    ({"grid": 12 * 132 + 1}, "waves 1.00 -> 1.00, of whose places 100% -> 50% have a program"),
    ({"instructions": 700}, "instructions 400 -> 700")]


@pytest.mark.parametrize(("now", "message"), [*WORSE, (None, "launches no kernel")])
def test_gate_objects(now, message):
    found = held(now)
    assert any(message in line for line in found), found


def test_gate_passes_what_is_recorded_and_small_changes():
    assert held({}) == []
    assert held({"registers": 39, "instructions": 500, "grid": 12 * 130, "code": "1"}) == []
    less = {"registers": 30, "memory": {"LDG.128": 3, "STG.64": 1}, "instructions": 100}
    assert held(less) == []


def test_gate_wants_every_entry_recorded():
    assert any("not in the ledger" in line for line in held({}, before=None))


def test_gate_grants_declared_exceptions_and_no_more():
    spills = {("a_kernel", "spills"): "a reason"}
    known = {**GOOD, "spills": 5}
    assert held({"spills": 5}, before=known, exceptions=spills) == []
    assert held({"spills": 6}, before=known, exceptions=spills)
    assert held({"f64": 1}, exceptions={("a_kernel", "f64"): "a reason"}) == []
    assert held({"f64": 1}, exceptions={("b_kernel", "f64"): "a reason"})


def test_gate_holds_another_triton_to_the_absolute_rules_alone():
    assert held({"tensor_core": {}}, version="10") == []
    assert held({}, before=None, version="10") == []
    assert held({"f64": 1}, version="10")
    assert held({"shared": 65 * 1024}, version="10", target="gfx942")


def test_files_keep_what_is_saved(monkeypatch, tmp_path):
    monkeypatch.setattr(ledger, "FOLDER", tmp_path / "ledger")
    assert ledger.load("toy") == {"triton": None, "targets": {}}
    ledger.save("toy", {"gfx942": {KEY: GOOD}, "sm_90": {KEY: GOOD, "a/fp32/b": GOOD}}, "9")
    kept = ledger.load("toy")
    assert kept["triton"] == "9"
    assert kept["targets"] == {"sm_90": {"a/fp32/b": GOOD, KEY: GOOD}, "gfx942": {KEY: GOOD}}


def test_a_difference_is_read_in_one_line():
    moved = {**GOOD, "registers": 50, "tensor_core": {}, "code": "1"}
    assert gate.changes({KEY: GOOD}, {KEY: GOOD}) == []
    assert gate.changes({KEY: GOOD}, {KEY: moved}) == [
        f"{KEY}: registers 40 -> 50 (+25%), tensor_core.HGMMA 4 -> 0 (-100%), code"]
    assert gate.changes({KEY: GOOD}, {"a": GOOD}) == ["a: new", f"{KEY}: gone"]


def test_another_ledger_is_a_column_and_what_is_worse_is_said(tmp_path, capsys):
    operator, target = "dyrelu", "sm_90"
    recorded = ledger.load(operator)
    assert ledger.main(["--diff", str(ledger.FOLDER), "--operators", operator]) == 0
    assert "0 differ above, 0 in their code alone" in capsys.readouterr().out
    entries = recorded["targets"][target]
    key, facts = next(iter(entries.items()))
    other = {**entries, key: {**facts, "spills": 8, "registers": 255}}
    ledger.save(operator, {target: other}, "9.1", tmp_path, {target: 12.3})
    assert ledger.main(["--diff", str(tmp_path), "--operators", operator]) == 1
    said = capsys.readouterr().out
    assert re.search(rf"^sm_90 +triton {recorded['triton']} +triton 9\.1$", said, re.M)
    line = next(line for line in said.splitlines() if line.startswith(f"dyrelu {key}"))
    assert f" {facts['registers']}r " in line
    assert " 255r  8 spilled " in line
    assert re.search(r"^dyrelu +12$", said, re.M), "the time to compile"
    assert "worse under 9.1: 1\n" in said
    assert f"  dyrelu sm_90 {key}: spills 0 -> 8, registers {facts['registers']} -> 255" in said
    assert "sm_80" not in said, "a target that the other was not compiled for"
    assert ledger.main(["--diff", str(tmp_path / "none"), "--operators", operator]) == 2
    assert "holds no ledger of dyrelu" in capsys.readouterr().out


@pytest.mark.parametrize(("now", "phrase"), [
    *WORSE, ({"code": "1"}, None)])
def test_what_is_worse(now, phrase):
    found = gate.worse(GOOD, {**GOOD, **now}, "sm_90")
    assert found == [] if phrase is None else any(phrase in each for each in found), found


def test_what_does_not_compile_is_a_fault_and_no_traceback(monkeypatch):
    def refuses(*_args):
        raise RuntimeError("PassManager::run failed")

    monkeypatch.setattr(ledger, "compile_case", refuses)
    entries, _, why = ledger.compile_job(("dyrelu", "p4_b2/fp32", "sm_90"))
    assert entries == {}
    assert why == "p4_b2/fp32 on sm_90 does not compile: RuntimeError: PassManager::run failed"


@pytest.mark.parametrize(("facts", "target", "programs", "limiter"), [
    ({"num_warps": 4, "registers": 32, "shared": 0}, "sm_90", 16, "warps"),
    ({"num_warps": 4, "registers": 128, "shared": 0}, "sm_90", 4, "registers"),
    ({"num_warps": 4, "registers": 255, "shared": 0}, "sm_80", 2, "registers"),
    ({"num_warps": 4, "registers": 64, "shared": 100 * 1024}, "sm_90", 2, "shared memory"),
    ({"num_warps": 1, "registers": 16, "shared": 0}, "sm_80", 32, "programs"),
    ({"num_warps": 4, "shared": 0}, "sm_86", 12, "warps"),
    ({"num_warps": 4, "shared": 48 * 1024}, "sm_120", 2, "shared memory"),
    ({"num_warps": 4, "registers": 128, "shared": 0}, "gfx942", 4, "registers"),
    ({"num_warps": 4, "registers": 64, "shared": 40 * 1024}, "gfx942", 1, "shared memory")])
def test_occupancy_names_its_limiter(facts, target, programs, limiter):
    found = bound(facts, target)
    assert (found.programs, found.limiter) == (programs, limiter)
    assert found.occupancy == programs * facts["num_warps"] / TARGETS[target].warps
