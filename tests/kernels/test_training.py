"""Thirty steps of training from one seed: kernels and definitions arrive at the same place.

What a single step is granted by the tolerance table may add up over steps that correct nothing; so
losses and final weights are held against the same training in float64, and torch's own training in
float32 is the yardstick.
"""

import copy

import pytest
import torch
from torch import nn

import fastdet
from benchmarks.examples.centernet import centernet_loss
from fastdet.cli.backends import record_choices
from fastdet.models import build_backbone, build_neck
from fastdet.models.utils.dynamic_conv import DynamicConv
from fastdet.models.utils.gaussian_target import centernet_targets
from fastdet.testing import assert_accurate

pytestmark = pytest.mark.kernel
STEPS = 30


class Pyramid(nn.Module):
    """A backbone and an FPN, drawn towards maps that are given."""

    def __init__(self, backbone, channels):
        super().__init__()
        self.backbone = build_backbone(backbone)
        self.neck = build_neck(dict(type="FPN", in_channels=channels, out_channels=8,
                                    num_outs=len(channels)))

    def forward(self, x, target):
        return sum((feat - target[..., :1, :1]).square().mean()
                   for feat in self.neck(self.backbone(x)))


class Interaction(nn.Module):
    """Sparse R-CNN's interaction of proposals and regions."""

    def __init__(self):
        super().__init__()
        self.conv = DynamicConv(16, 16, input_feat_shape=2)

    def forward(self, x, target):
        out = self.conv(x[:, :, 0, 0], x[:, :, :2, :2])
        return (out - target[:, :, 0, 0]).square().mean()


class Centres(nn.Module):
    """CenterNet's neck with deformable convolutions, its heads, targets and loss."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, stride=8)
        self.neck = build_neck(dict(type="CTResNetNeck", in_channel=8, num_deconv_filters=(8,),
                                    num_deconv_kernels=(4,), use_dcn=True))
        self.heads = nn.ModuleList(nn.Conv2d(8, n, 1) for n in (2, 2, 2))

    def forward(self, x, target):
        feature, = self.neck([self.stem(x)])
        heatmap, wh, offset = (head(feature) for head in self.heads)
        boxes = [torch.tensor([[3.0, 2, 20, 27], [9, 9, 30, 16]], device=x.device)] * len(x)
        labels = [torch.tensor([0, 1], device=x.device)] * len(x)
        truth, count = centernet_targets(boxes, labels, heatmap.shape, x.shape[2:])
        truth = {name: t.to(x.dtype) for name, t in truth.items()}
        return centernet_loss(heatmap, wh, offset, truth, count)


SWIN = dict(type="SwinTransformer", embed_dims=16, depths=(2,), num_heads=(1,), strides=(4,),
            out_indices=(0,), window_size=2, drop_path_rate=0.0)
PVT = dict(type="PyramidVisionTransformer", embed_dims=16, num_stages=1, num_layers=[1],
           num_heads=[1], patch_sizes=[4], strides=[4], paddings=[0], sr_ratios=[2],
           mlp_ratios=[2], out_indices=(0,), pretrain_img_size=16, drop_path_rate=0.0)

#: The pipeline, the size of its input and of its target, and the operators that it must run.
PIPELINES = {
    "swin_fpn": (lambda: Pyramid(SWIN, [16]), (1, 3, 8, 8), {"window_attention"}),
    "pvt": (lambda: Pyramid(PVT, [16]), (1, 3, 16, 16), {"spatial_reduction_attention"}),
    "dynamic_conv": (Interaction, (2, 16, 16, 16), {"dynamic_conv"}),
    "centernet": (Centres, (1, 3, 32, 32), {"deform_conv2d", "gaussian_targets"}),
}


def train(model, x, target):
    """The losses of every step, and the weights behind the last."""
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        loss = model(x, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", PIPELINES)
def test_training_arrives_at_the_same_weights(name, kernel_device):
    build, shape, operators = PIPELINES[name]
    model = build().to(kernel_device).train()
    x = torch.randn(shape, device=kernel_device)
    target = torch.randn(shape[0], 16 if name == "dynamic_conv" else 1, 1, 1,
                         device=kernel_device)
    with fastdet.backend("torch"):
        truth = train(copy.deepcopy(model).double(), x.double(), target.double())
        torchs = train(copy.deepcopy(model), x, target)
    with record_choices() as choices:
        got = train(model, x, target)
    assert operators <= {name for name, by in choices.items() if "triton" in by}
    assert truth[0][-1] < 0.95 * truth[0][0], "nothing was learnt"
    for what, mine, torch_run, true in zip(("losses", "weights"), got, torchs, truth):
        assert_accurate(f"{name}: {what}", mine, torch_run, true, torch.float32)
