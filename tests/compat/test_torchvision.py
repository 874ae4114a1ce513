"""``fastdet.serve_torchvision()``: torchvision's operators by ours, and its detectors on them."""

import importlib
import importlib.util
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from compat.others import needs
from torch.nn import functional as F

import fastdet
from fastdet.testing import assert_accurate

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def ops():
    with suppress(ImportError, RuntimeError):  # an import that has failed is mended, too
        importlib.import_module("torchvision")
    return needs("torchvision").ops


def boxes(n, size=60):
    corner = torch.rand(n, 2) * size / 2
    return torch.cat([corner, corner + 1 + torch.rand(n, 2) * size / 2], 1)


def rois(n, images):
    return torch.cat([torch.randint(images, (n, 1)).float(), boxes(n)], 1)


def test_what_it_says(ops):
    served = fastdet.serve_torchvision()
    assert fastdet.serve_torchvision() is served
    if not served.binary:
        assert str(served).endswith("whose binary does not load: fastdet's are nms, roi_align, "
                                    "roi_pool, deform_conv2d; not served: qnms, qroi_align, "
                                    "ps_roi_align, ps_roi_pool")


def test_operators_that_are_there_can_be_replaced():
    """As where the binary loads: here another library has defined them."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision")
    code = """
import torch
from fastdet.compat import torchvision_ops
library = torch.library.Library("torchvision", "DEF")
for name, schema in torchvision_ops._SCHEMAS.items():
    library.define(name + schema)
    library.impl(name, lambda *args: args[0] + 1, "CPU")
library.define("_cuda_version() -> int")
library.impl("_cuda_version", lambda: -1, "CompositeImplicitAutograd")
path = torchvision_ops._binary()
torch.ops.load_library = lambda name: None
import fastdet
served = fastdet.serve_torchvision()
assert served.binary and not served.ours, served
boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4]])
assert torch.ops.torchvision.nms(boxes, torch.rand(2), 0.5).shape == (2, 4)
served = fastdet.serve_torchvision(replace=True)
assert served.ours[0] == "nms", served
assert torch.ops.torchvision.nms(boxes, torch.rand(2), 0.5).shape == (1,)
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True,
                          check=False)
    assert done.returncode == 0, done.stderr


def test_nms_is_greedy(ops):
    box, score = boxes(60), torch.rand(60)
    kept = ops.nms(box, score, 0.4)
    order, want = score.argsort(descending=True).tolist(), []
    for i in order:
        if all(ops.box_iou(box[i:i + 1], box[j:j + 1]) <= 0.4 for j in want):
            want.append(i)
    assert kept.tolist() == want
    assert ops.nms(box[:0], score[:0], 0.4).shape == (0,)


@pytest.mark.parametrize("sampling_ratio", [2, -1])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_equals_torchvisions_own_form(ops, aligned, sampling_ratio):
    """Its Python form, which it takes on a GPU that is to be deterministic, uncompiled."""
    own = sys.modules["torchvision.ops.roi_align"]._roi_align
    x = torch.randn(2, 3, 17, 23, dtype=torch.float64, requires_grad=True)
    where = rois(7, 2).double()
    got = ops.roi_align(x, where, (3, 2), 0.4, sampling_ratio, aligned)
    with torch.compiler.set_stance("force_eager"):
        want = own(x, where, 0.4, 3, 2, sampling_ratio, aligned)
    torch.testing.assert_close(got, want)
    pull = torch.randn_like(got)
    torch.testing.assert_close(*(torch.autograd.grad(out, x, pull)[0] for out in (got, want)))


def pooled(x, where, scale, size):
    """RoI pooling bin by bin, halves away from zero."""
    out = []
    for image, *box in where.tolist():
        x1, y1, x2, y2 = (int(abs(v * scale) + 0.5) for v in box)
        cells = []
        for n, low, high, bins in ((x.shape[2], y1, y2, size[0]), (x.shape[3], x1, x2, size[1])):
            step = max(high - low + 1, 1) / bins
            cells.append([(min(max(int(i * step) + low, 0), n),
                           min(max(-int(-(i + 1) * step // 1) + low, 0), n))
                          for i in range(bins)])
        out.append(torch.stack([torch.stack([
            x[int(image), :, a:b, c:d].amax((1, 2)) if b > a and d > c else x.new_zeros(x.shape[1])
            for c, d in cells[1]], 1) for a, b in cells[0]], 1))
    return torch.stack(out)


def test_roi_pool_is_the_maximum_of_each_bin(ops):
    x = torch.randn(2, 3, 17, 23, dtype=torch.float64, requires_grad=True)
    where = torch.cat([rois(9, 2), torch.tensor([[1.0, 100, 100, 120, 120]])]).double()
    got, want = ops.roi_pool(x, where, (3, 2), 0.5), pooled(x, where, 0.5, (3, 2))
    assert torch.equal(got, want)
    pull = torch.randn_like(got)
    torch.testing.assert_close(*(torch.autograd.grad(out, x, pull)[0] for out in (got, want)))


@pytest.mark.parametrize("masked", [False, True])
def test_deform_conv2d_without_offsets_is_a_convolution(ops, masked):
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64, requires_grad=True)
    layer = ops.DeformConv2d(4, 6, 3, stride=2, padding=1, groups=2).double()
    offset = torch.zeros(2, 36, 5, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.full((2, 18, 5, 4), 0.5, dtype=torch.float64, requires_grad=True)
    got = layer(x, offset, mask if masked else None)
    want = F.conv2d(x, layer.weight * (0.5 if masked else 1), layer.bias, 2, 1, 1, 2)
    torch.testing.assert_close(got, want)
    pull = torch.randn_like(got)
    leaves = [x, layer.weight, layer.bias]
    torch.testing.assert_close(*(torch.autograd.grad(out, leaves, pull, retain_graph=True)
                                 for out in (got, want)))
    moved = [offset, mask] if masked else [offset]
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(got, moved, pull))


def test_gradients_of_deform_conv2d(ops):
    args = [torch.randn(1, 2, 4, 5), torch.randn(1, 8, 3, 4) + 0.3, torch.randn(3, 2, 2, 2),
            torch.randn(3), torch.rand(1, 4, 3, 4)]
    args = [t.double().requires_grad_() for t in args]
    assert torch.autograd.gradcheck(
        lambda x, offset, w, b, mask: ops.deform_conv2d(x, offset, w, b, mask=mask), args)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_half_types_lose_no_more_than_they_must(ops, dtype):
    def run(x, offset, weight, where):
        out = [ops.deform_conv2d(x, offset, weight, padding=1), ops.roi_align(x, where, 3, 0.2),
               ops.roi_pool(x, where, 3, 0.2)[0]]
        return [*out, *torch.autograd.grad(sum(o.float().sum() for o in out), [x, weight])]

    inputs = [t.to(dtype) for t in (torch.randn(1, 8, 12, 12), torch.rand(1, 18, 12, 12),
                                    torch.randn(8, 8, 3, 3), rois(5, 1))]
    inputs = [t.requires_grad_() for t in inputs[:3]] + inputs[3:]
    got = run(*inputs)
    truth = run(*(t.detach().double().requires_grad_(t.requires_grad) for t in inputs))
    for i, (mine, true) in enumerate(zip(got, truth)):
        assert mine.dtype == dtype
        assert_accurate(f"result {i}", mine, true.to(dtype), true, dtype)


def test_results_are_the_same_in_each_run_where_that_is_asked_for(ops):
    x, where = torch.randn(1, 4, 20, 20, requires_grad=True), rois(40, 1)
    torch.use_deterministic_algorithms(True)
    try:
        runs = [torch.autograd.grad(
            ops.roi_align(x, where, 5, 0.3).sum() + ops.roi_pool(x, where, 5, 0.3).sum(), x)[0]
            for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*runs)


def test_what_is_not_served_says_so(ops):
    if fastdet.serve_torchvision().binary:
        pytest.skip("torchvision's own binary loads")
    with pytest.raises(RuntimeError, match="torchvision::ps_roi_align is not among the operators "
                                           "that fastdet serves"):
        ops.ps_roi_align(torch.randn(1, 4, 8, 8), rois(1, 1), 2)


def test_operators_trace(ops):
    x, where = torch.randn(1, 2, 8, 8, requires_grad=True), rois(3, 1)
    torch.library.opcheck(torch.ops.torchvision.roi_align.default, (x, where, 0.1, 2, 2, 2, True),
                          test_utils=("test_schema", "test_faketensor"))
    compiled = torch.compile(lambda x: ops.roi_align(x, where, 2, 0.1).square().sum(),
                             backend="aot_eager", fullgraph=True)
    plain = ops.roi_align(x, where, 2, 0.1).square().sum()
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x), torch.autograd.grad(plain, x))


@pytest.mark.parametrize("mask", [False, True])
def test_torchvisions_detectors_run(ops, mask):
    from torchvision.models import resnet18
    from torchvision.models.detection import FasterRCNN, MaskRCNN
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

    model = (MaskRCNN if mask else FasterRCNN)(
        _resnet_fpn_extractor(resnet18(weights=None), 3), 5, min_size=64, max_size=64,
        rpn_pre_nms_top_n_train=50, rpn_post_nms_top_n_train=20, rpn_post_nms_top_n_test=20,
        box_batch_size_per_image=16, box_score_thresh=0.0)
    image = torch.rand(3, 64, 64)
    target = {"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1]),
              "masks": torch.ones(1, 64, 64, dtype=torch.uint8)}
    losses = model([image], [target])
    sum(losses.values()).backward()
    assert len(losses) == 4 + mask
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    found = model.eval()([image])[0]
    assert len(found["boxes"]) > 0
    assert ("masks" in found) == mask
