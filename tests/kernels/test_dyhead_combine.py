"""DyHead's combination: the reference against explicit loops, the kernels against fp64."""

import pytest
import torch

import fastdet
from fastdet.kernels.dyhead_combine import Branch, dyhead_combine
from fastdet.kernels.dyhead_combine import op as op_module
from fastdet.testing import assert_accurate

#: Size of the level, of the coarser one, and whether there is a finer and a coarser one.
CASES = {
    "all": ((6, 10), (3, 5), True, True),
    "odd": ((7, 5), (4, 3), True, True),
    "finest": ((5, 8), (3, 4), False, True),
    "coarsest": ((3, 5), None, True, False),
    "alone": ((3, 4), None, False, False),
    "coarser-is-a-row": ((2, 7), (1, 4), False, True),
    "coarser-is-a-pixel": ((2, 1), (1, 1), True, True),
    "same-size": ((1, 3), (1, 3), True, True),
    "not-half": ((11, 9), (3, 8), True, True),
}
NAMES = ("mid", "low", "high")


def inputs(case, b=2, c=6, dtype=torch.float64, device="cpu", parameters=None, mean=0.0):
    """Leaves by name: maps, norms, attention."""
    size, coarse, has_low, has_high = CASES[case]
    sizes = {"mid": size, "low": size if has_low else None, "high": coarse if has_high else None}
    out = {}
    for name, hw in sizes.items():
        if hw is None:
            continue
        out[name] = torch.randn(b, c, *hw, dtype=torch.float64) * (1 + torch.rand(c, 1, 1)) + mean
        out[f"{name}.weight"] = torch.randn(c, dtype=torch.float64)
        out[f"{name}.bias"] = torch.randn(c, dtype=torch.float64)
    out["attention.weight"] = torch.randn(c, dtype=torch.float64)
    out["attention.bias"] = torch.rand(1, dtype=torch.float64)
    return {k: v.to(device, dtype if k in NAMES else parameters or dtype).requires_grad_()
            for k, v in out.items()}


def combine(leaves, groups=2, **kwargs):
    branches = [Branch(*(leaves[n + p] for p in ("", ".weight", ".bias"))) if n in leaves else None
                for n in NAMES]
    return dyhead_combine(branches, leaves["attention.weight"], leaves["attention.bias"],
                          groups=groups, **kwargs)


def run(leaves, grad, grad_mean, **kwargs):
    out, mean = combine(leaves, **kwargs)
    grads = torch.autograd.grad((out, mean), list(leaves.values()),
                                (grad.to(out.dtype), grad_mean.to(out.dtype)))
    return {"out": out, "mean": mean, **{f"d {k}": g for k, g in zip(leaves, grads)}}


@pytest.mark.parametrize("case", CASES)
def test_reference_is_what_loops_say(case):
    leaves = inputs(case)
    H, W = leaves["mid"].shape[2:]
    for b in range(2):
        want, count = torch.zeros(6, H, W, dtype=torch.float64), 0
        for name in NAMES:
            if name not in leaves:
                continue
            x = leaves[name][b].detach()
            y = torch.empty_like(x)
            for group in (slice(0, 3), slice(3, 6)):
                y[group] = (x[group] - x[group].mean()) / (x[group].var(correction=0) + 0.1).sqrt()
            y = (y * leaves[f"{name}.weight"][:, None, None]
                 + leaves[f"{name}.bias"][:, None, None]).detach()
            big = torch.empty(6, H, W, dtype=torch.float64)
            for i in range(H):
                for j in range(W):
                    p = i * (y.shape[1] - 1) / max(1, H - 1)
                    q = j * (y.shape[2] - 1) / max(1, W - 1)
                    big[:, i, j] = sum(
                        y[:, m, n] * max(0, 1 - abs(p - m)) * max(0, 1 - abs(q - n))
                        for m in range(y.shape[1]) for n in range(y.shape[2]))
            logit = (big.mean((1, 2)) * leaves["attention.weight"]).sum() + leaves["attention.bias"]
            want += big * min(0.9, max(0.2, (max(0, logit.item()) + 1) / 4))
            count += 1
        out, mean = combine(leaves, eps=0.1, act=(1.0, 4.0, 0.2, 0.9))
        torch.testing.assert_close(out[b].detach(), want / count)
        torch.testing.assert_close(mean[b].detach(), (want / count).mean((1, 2)))


@pytest.mark.parametrize("case", ["all", "finest"])
def test_reference_gradcheck(case):
    leaves = inputs(case, c=2)
    names = list(leaves)
    assert torch.autograd.gradcheck(
        lambda *values: combine(dict(zip(names, values))), list(leaves.values()))


@pytest.mark.parametrize(("change", "text"), [
    ({"mid": torch.zeros(2, 6, 4)}, r"mid must be a floating-point \[B, C, H, W\].*\[2, 6, 4\]"),
    ({"low": torch.zeros(2, 6, 4, 4)}, r"low must be torch.float64 \[2, 6, 6, 10\], got"),
    ({"high": torch.zeros(2, 6, 7, 5, dtype=torch.float64)}, r"high must be.* at most \[2, 6, 6, "),
    ({"low.bias": torch.zeros(5)}, r"bias of low must be \[6\], got \[5\]"),
    ({"attention.bias": torch.zeros(2)}, r"\[6\] and \[1\], got \[6\] and \[2\]"),
])
def test_bad_input(change, text):
    with pytest.raises(ValueError, match=text):
        combine(inputs("all") | change)


@pytest.mark.parametrize("branches", [[], [None, None, None]])
def test_bad_branches(branches):
    with pytest.raises(ValueError, match="must be mid, low or None, and high or None, got"):
        dyhead_combine(branches, torch.zeros(6), torch.zeros(1), groups=2)


def test_bad_groups():
    with pytest.raises(ValueError, match="6 channels do not divide into groups=4"):
        combine(inputs("all"), groups=4)
    with pytest.raises(ValueError, match=r"high \[1, 6, 1, 1\] in 6 groups leaves a group one"):
        combine(inputs("coarser-is-a-pixel", b=1), groups=6)


def compare(leaves, dtype, **kwargs):
    out, mean = combine(leaves, **kwargs)
    grad, grad_mean = torch.randn_like(out), torch.randn_like(mean)
    got = run(leaves, grad, grad_mean, **kwargs)
    with fastdet.backend("torch"):
        torchs = run(leaves, grad, grad_mean, **kwargs)
        wide = {k: v.detach().double().requires_grad_() for k, v in leaves.items()}
        truth = run(wide, grad.double(), grad_mean.double(), **kwargs)
    for name, mine in got.items():
        assert mine.dtype == torchs[name].dtype
        assert_accurate(name, mine, torchs[name], truth[name], dtype)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("case", "dtype"), [
    *((case, torch.float32) for case in CASES if case != "all"), ("odd", torch.float16),
    ("odd", torch.bfloat16)])
def test_kernel(kernel_device, case, dtype):
    compare(inputs(case, b=1, c=4, dtype=dtype, device=kernel_device), dtype)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
def test_kernel_of_channels_that_fill_no_power_of_two(kernel_device):
    compare(inputs("coarser-is-a-pixel", dtype=torch.float32, device=kernel_device), torch.float32)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
def test_kernel_over_several_blocks(kernel_device, monkeypatch):
    monkeypatch.setattr(op_module, "BLOCK", 32)
    compare(inputs("not-half", b=1, c=2, device=kernel_device, dtype=torch.float32),
            torch.float32, groups=1)


@pytest.mark.kernel
@pytest.mark.parametrize("act", [(1.0, 2.0, 0.0, 1.0), (-9.0, 6.0, 0.0, 1.0), (9.0, 6.0, 0.0, 1.0)])
def test_kernel_activation(kernel_device, act):
    """A weight between the clamps, at the lower and at the upper one; ReLU closed for a bias."""
    for bias in (1.0, -99.0):
        leaves = inputs("odd", b=1, c=2, device=kernel_device, dtype=torch.float32)
        with torch.no_grad():
            leaves["attention.weight"].mul_(0.01)
            leaves["attention.bias"].fill_(bias)
        compare(leaves, torch.float32, act=act)


@pytest.mark.kernel
def test_kernel_with_a_large_mean(kernel_device):
    compare(inputs("odd", b=1, c=2, device=kernel_device, dtype=torch.float32, mean=1000.0),
            torch.float32)


@pytest.mark.kernel
def test_kernel_takes_any_strides(kernel_device):
    leaves = inputs("odd", b=1, c=2, device=kernel_device, dtype=torch.float32)
    want = run(leaves, *(torch.ones_like(t) for t in combine(leaves)))
    strided = leaves | {k: leaves[k].detach().contiguous(memory_format=torch.channels_last)
                        .requires_grad_() for k in NAMES}
    out, mean = combine(strided)
    grads = torch.autograd.grad(out.sum() + mean.sum(), list(strided.values()))  # expanded
    for got, name in zip((out, mean, *grads), want):
        assert torch.equal(got, want[name]), name


@pytest.mark.kernel
def test_kernel_with_one_gradient_at_a_time(kernel_device):
    leaves = inputs("odd", b=1, c=2, device=kernel_device, dtype=torch.float32)
    out, mean = combine(leaves)
    grad, grad_mean = torch.randn_like(out), torch.randn_like(mean)
    whole = run(leaves, grad, grad_mean)
    for name in ("low", "high.weight", "attention.bias"):
        leaf = leaves[name]
        alone = {k: v if k == name else v.detach() for k, v in leaves.items()}
        out, mean = combine(alone)
        parts = [torch.autograd.grad(t, leaf, g, retain_graph=True)[0]
                 for t, g in ((out, grad), (mean, grad_mean))]
        torch.testing.assert_close(sum(parts), whole[f"d {name}"])


@pytest.mark.kernel
def test_kernel_is_deterministic(kernel_device):
    leaves = inputs("odd", b=1, c=2, device=kernel_device, dtype=torch.float32)
    first, second = (run(leaves, *(torch.ones_like(t) for t in combine(leaves))) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.kernel
def test_kernel_of_no_images(kernel_device):
    leaves = inputs("all", b=0, device=kernel_device, dtype=torch.float32)
    got = run(leaves, torch.ones(0, 6, 6, 10, device=kernel_device),
              torch.ones(0, 6, device=kernel_device))
    assert all(not got[f"d {name}"].any() for name in leaves)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_gives_float32(kernel_device, dtype):
    leaves = inputs("odd", b=1, c=2, device=kernel_device, dtype=dtype, parameters=torch.float32)
    with torch.autocast(kernel_device.type, dtype=dtype):
        got = combine(leaves)
        with fastdet.backend("torch"):
            want = combine(leaves)
    for mine, theirs in zip(got, want):
        assert mine.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(mine, theirs)
    given = [torch.randn_like(t) for t in got]
    grads, wanted = (torch.autograd.grad(outs, list(leaves.values()), given)
                     for outs in (got, want))
    for name, mine, theirs in zip(leaves, grads, wanted):
        assert mine.dtype == leaves[name].dtype
        least = theirs.abs().max().item() * torch.finfo(mine.dtype).eps * 4
        torch.testing.assert_close(mine, theirs, rtol=0, atol=least)


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    with pytest.raises(fastdet.BackendError, match="not float64"):
        combine(inputs("all", device=kernel_device))
    with pytest.raises(fastdet.BackendError, match="hold up to 4096 channels, not 4098"):
        combine(inputs("alone", b=1, c=4098, dtype=torch.float32, device=kernel_device))


@pytest.mark.kernel
@pytest.mark.parametrize("case", ["odd", "alone"])
def test_opcheck(kernel_device, case):
    leaves = inputs(case, b=1, c=2, dtype=torch.float32, device=kernel_device)
    norms = [leaves[f"{n}.{p}"] for n in NAMES if n in leaves for p in ("weight", "bias")]
    torch.library.opcheck(op_module._forward, (
        *(leaves.get(n) for n in NAMES), norms, leaves["attention.weight"],
        leaves["attention.bias"], 2, 1e-5, [3.0, 6.0, 0.0, 1.0], torch.float32))
