"""NaN and infinities: every operator's results are finite where its reference's are, only there.

A GradScaler, a loss that diverged, a dead sensor: all of them are found by numbers that are not
finite. An operator that loses one hides a broken step; one that spreads it breaks a sound step.
"""

import pytest
import torch
from operator_cases import CASES, flat

import fastdet

PUT = (float("nan"), float("inf"), float("-inf"))

#: Inputs whose numbers become integers, for which NaN and infinity have no meaning, or that only
#: say where the result lies.
NOT_READ = {("gaussian_targets-centernet", "boxes"), ("grid_priors-points", "like"),
            ("valid_flags", "like")}

#: Places on a map: one that is nowhere samples nothing, so that it need not show. Nor need a NaN
#: among samples of which mmcv takes the largest by comparing them.
PLACES_ON_A_MAP = {("deform_conv2d", "offset"), ("deform_conv2d-groups", "offset"),
                   ("dyhead_convs", "numbers0"), ("dyhead_convs", "numbers1"),
                   ("multi_scale_deformable_attention", "places"), ("roi_align", "rois"),
                   ("roi_align-max", "rois"), ("roi_align-max", "x")}

#: Cases whose results are indices: their own tests say which a NaN is kept out of.
INDICES = {"max_iou_assign", "nms"}

PLACES = [(name, put_into) for name, case in CASES.items() if name not in INDICES
          for put_into in (*case.floating, *(["grad"] if case.differentiable else []))
          if (name, put_into) not in NOT_READ]


def run(case, given, put_into, value, backend):
    """Outputs and gradients by name, with ``value`` in the middle of one tensor."""
    tensors = {name: tensor.clone() for name, tensor in given.items()}
    if put_into in tensors:
        tensors[put_into].view(-1)[tensors[put_into].numel() // 2] = value
    leaves = {name: tensors[name].requires_grad_(case.differentiable) for name in case.floating}
    with fastdet.backend(backend):
        outputs = flat(case.call(**tensors))
        results = {f"output {i}": t.detach() for i, t in enumerate(outputs)}
        if case.differentiable:
            generator = torch.Generator().manual_seed(1)
            grads = [torch.randn(t.shape, generator=generator).to(t) for t in outputs]
            if put_into == "grad":
                grads[0].view(-1)[outputs[0].argmax()] = value  # no ReLU stops it there
            made = torch.autograd.grad(outputs, list(leaves.values()), grads,
                                       materialize_grads=True)
            results |= {f"gradient of {name}": grad for name, grad in zip(leaves, made)}
    return results


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "put_into"), PLACES, ids=lambda v: v)
def test_not_finite_where_the_reference_is_not(kernel_device, name, put_into):
    case = CASES[name]
    given = case.make(kernel_device)
    for value in PUT:
        want = run(case, given, put_into, value, "torch")
        got = run(case, given, put_into, value, "triton")
        # A NaN has to show at all; -inf may end in a ReLU or below a maximum.
        shows = any(not t.isfinite().all() for t in want.values())
        assert shows or value == value or (name, put_into) in PLACES_ON_A_MAP
        for what, tensor in want.items():
            lost = ~tensor.isfinite() & got[what].isfinite()
            spread = tensor.isfinite() & ~got[what].isfinite()
            assert not lost.any(), f"{value} in {put_into}: {what} loses {int(lost.sum())} of it"
            assert not spread.any(), (
                f"{value} in {put_into}: {int(spread.sum())} of {what} are not finite, "
                "where the reference's are")
