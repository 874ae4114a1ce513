"""``fastdet verify``: planted faults are found, and the command says and returns what it should."""

import os

import pytest
import torch

from fastdet import cli
from fastdet.benchmarks import verify
from fastdet.benchmarks.entry import Entry, Provider

CPU = torch.device("cpu")


def entry_of(ours, exact=False):
    def make(*, dtype, device, n):
        return {"x": torch.randn(n, device=device, dtype=dtype).requires_grad_()}

    return Entry("toy", {"real": {"n": 300}}, {"n": 9}, make,
                 {"eager": Provider(lambda x: x["x"] * 2), "fastdet": Provider(ours)}, exact=exact)


def find(ours, passes="fwd", dtype="fp32", exact=False, kernels=False):
    case = verify.Case(entry_of(ours, exact), "tiny", dtype, passes)
    return verify.verify_case(case, CPU, kernels)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_is_right_passes(dtype):
    found = find(lambda x: x["x"] + x["x"], "fwd+bwd", dtype)
    assert found.passed
    assert found.deterministic
    assert found.share <= 0.5


def test_a_wrong_scale_is_found():
    found = find(lambda x: x["x"] * 2.001)
    assert not found.passed
    assert found.share > 100
    assert found.where == "output 0"


def test_a_result_that_changes_from_run_to_run_is_found():
    ran = iter([2.0, 2.0000002])
    found = find(lambda x: x["x"] * next(ran))
    assert found.share <= 1
    assert not found.deterministic
    assert not found.passed


def test_a_wrong_gradient_a_missing_one_and_an_extra_result_are_found():
    assert find(lambda x: x["x"] * 2 + x["x"].detach() - x["x"]).share <= 1
    assert find(lambda x: x["x"] * 2 + x["x"].detach() - x["x"], "fwd+bwd").share > 1
    assert "RuntimeError" in find(lambda x: x["x"].detach() * 2, "fwd+bwd").error
    assert "2 tensors" in find(lambda x: [x["x"] * 2, x["x"]]).where


def test_exact_operators_need_every_bit():
    nearly = find(lambda x: torch.nextafter(x["x"] * 2, torch.tensor(9.0)), exact=True)
    assert not nearly.passed


def test_the_grid_starts_small_and_has_every_operator():
    names = [name for name, e in verify.ENTRIES.items() if e.kind == "operator"]
    grid = verify.cases(names, ["fp32", "bf16"], CPU, interpret=False)
    assert {case.entry.name for case in grid} == set(names)
    sizes = [case.shape == "tiny" for case in grid]
    assert sizes == sorted(sizes, reverse=True)
    interpreted = verify.cases(names, ["fp32"], CPU, interpret=True)
    assert {case.shape for case in interpreted} == {"tiny"}
    assert len(list(verify.verify(grid, CPU, False, 0.0))) == 0, "no time is left"


def test_the_command(capsys):
    assert cli.main(["verify", "dyrelu", "valid_flags", "--dtypes", "fp32", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "CPU path" in said
    assert "dyrelu" in said
    assert ", 0 failed" in said


def test_the_command_fails_on_a_fault(monkeypatch, capsys):
    from fastdet.benchmarks import registry

    toy = {"toy": entry_of(lambda x: x["x"] * 3)}
    monkeypatch.setattr(registry, "ENTRIES", toy)
    monkeypatch.setattr(verify, "ENTRIES", toy)
    assert cli.main(["verify", "--device", "cpu", "--dtypes", "fp32"]) == 1
    assert "0 passed, 2 failed" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["nothing"], "unknown operator 'nothing', expected one of add_layer_norm, carafe,"),
    (["--dtypes", "fp8"], "unknown data type 'fp8', expected one of fp32, fp16, bf16"),
    (["--device", "cuda:77"], "device 'cuda:77'"),
    (["valid_flags", "--dtypes", "bf16"], "has none of the data types")])
def test_bad_input_is_one_sentence(arguments, sentence, capsys):
    assert cli.main(["verify", *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_interpret_starts_a_process_that_interprets(capfd):
    assert cli.main(["verify", "dyrelu", "--dtypes", "fp32", "--interpret"]) == 0
    said = capfd.readouterr().out
    assert "kernels, interpreted" in said
    assert "2 passed, 0 failed" in said


# --- kernels with planted faults ---------------------------------------------------------------

def kernel_of(fault):
    import triton
    import triton.language as tl

    @triton.jit
    def twice_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr, FAULT: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        mask = at < n + (FAULT == 2) * BLOCK
        y = tl.load(x_ptr + at, mask=at < n, other=0.0) * (2.001 if FAULT == 1 else 2.0)
        to = tl.where(at < n - 1, at, 0) if FAULT == 3 else at
        tl.store(out_ptr + to, y, mask=mask)

    def run(x):
        out = torch.empty(x["x"].numel())
        twice_kernel[(-(-len(out) // 8),)](x["x"].detach(), out, len(out), BLOCK=8, FAULT=fault)
        return out
    return run


@pytest.mark.kernel
@pytest.mark.parametrize(("fault", "message"), [
    (0, ""), (1, "output 0"), (2, "bytes behind a tensor of 36 bytes were written"),
    (3, "output 0")], ids=["none", "a wrong scale", "a missing mask", "a racing store"])
def test_a_fault_planted_in_a_kernel_is_found(fault, message):
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("the toy kernels run on the CPU")
    case = verify.Case(entry_of(kernel_of(fault)), "tiny", "fp32", "fwd")
    found = verify.verify_case(case, CPU, kernels=False)
    assert found.passed == (fault == 0)
    if fault:
        assert message in (found.error or found.where)
