"""How far a kernel may be from the truth: one rule and one table for every operator.

The truth is the reference in float64. What torch loses when it runs the same reference in the
kernel's own data type is the yardstick: a kernel may lose up to twice that, in the maximum and in
the root mean square, or the table's share of the result's own size where torch happens to lose
nothing.
"""

import torch

#: Smallest error that is still granted, relative to the RMS of the true result: (maximum, RMS).
FLOOR = {
    torch.float64: (1e-12, 1e-13),
    torch.float32: (2e-6, 3e-7),
    torch.float16: (4e-3, 6e-4),
    torch.bfloat16: (3e-2, 5e-3),
}

MARGIN = 2.0


def errors(got: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Maximum and RMS of ``got - truth``."""
    delta = (got.detach().double().cpu() - truth.detach().double().cpu()).abs()
    if delta.numel() == 0:
        return 0.0, 0.0
    return float(delta.max()), float(delta.square().mean().sqrt())


def granted(torch_run: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype
            ) -> tuple[float, float]:
    """The maximum and RMS error that a result in ``dtype`` may have."""
    size = float(truth.detach().double().square().mean().sqrt()) if truth.numel() else 0.0
    maximum, rms = (max(MARGIN * torchs, floor * max(size, 1e-6))
                    for torchs, floor in zip(errors(torch_run, truth), FLOOR[dtype]))
    return maximum, rms


def share(got: torch.Tensor, torch_run: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype
          ) -> float:
    """The error of a result as a share of what is granted: above one, it is wrong.

    The arguments are those of :func:`assert_accurate`. Infinite where the shape is another or a
    value is not finite.
    """
    if got.shape != truth.shape or not torch.isfinite(got).all():
        return float("inf")
    return max(mine / limit for mine, limit in zip(
        errors(got, truth), granted(torch_run, truth, dtype)))


def assert_accurate(name: str, got: torch.Tensor, torch_run: torch.Tensor, truth: torch.Tensor,
                    dtype: torch.dtype) -> None:
    """Hold one result of a kernel against torch's own run and the float64 truth.

    Args:
        name: what the tensor is, for the message.
        got: the kernel's result.
        torch_run: the reference's result in ``dtype``, computed by torch.
        truth: the reference's result in float64 from the same (rounded) inputs.
        dtype: the data type that both ran in.
    """
    assert got.shape == truth.shape, f"{name}: shape {tuple(got.shape)}, not {tuple(truth.shape)}"
    assert torch.isfinite(got).all(), f"{name}: not finite"
    limits = granted(torch_run, truth, dtype)
    for what, mine, torchs, limit in zip(
            ("maximum", "RMS"), errors(got, truth), errors(torch_run, truth), limits):
        assert mine <= limit, (
            f"{name} ({dtype}): {what} error {mine:.3e}, torch's own run loses {torchs:.3e}, "
            f"granted {limit:.3e}")
