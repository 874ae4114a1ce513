"""Train a small CenterNet (Zhou et al., https://arxiv.org/abs/1904.07850) on a few rectangles.

``python -m benchmarks.examples.centernet [--steps 50] [--size 128] [--device cpu] [--dcn]``

The images are crops of the photograph that matplotlib ships, with bright rectangles of three
colours, one colour a class; the rectangles are the ground truth. Backbone, neck and targets are
fastdet's; the heads and the losses are written out here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cli.image import Normalization, normalize, read_photo
from fastdet.models import build_backbone, build_neck
from fastdet.models.utils.gaussian_target import centernet_targets
from fastdet.runner import BaseModule

__all__ = ["CenterNet", "Rectangles", "centernet_loss", "main", "train"]

COLOURS = np.array([(255, 40, 40), (40, 255, 40), (255, 255, 40)], dtype=np.uint8)


class Rectangles:
    """Draws images and their boxes.

    Args:
        size: side of an image in pixels.
        seed: of the draws.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.photo = read_photo(None)
        if size % 32 or not 0 < size <= min(self.photo.shape[:2]):
            raise ValueError(f"size must be a multiple of 32 up to {min(self.photo.shape[:2])}, "
                             f"got {size}")
        self.size = size
        self.rng = np.random.default_rng(seed)

    def image(self) -> tuple[Tensor, Tensor, Tensor]:
        """An image [1, 3, size, size], its boxes [n, 4] in pixels and their classes [n]."""
        size, rng = self.size, self.rng
        top, left = (rng.integers(side - size + 1) for side in self.photo.shape[:2])
        crop = self.photo[top:top + size, left:left + size].copy()
        free = np.ones((size, size), dtype=bool)
        boxes, labels = [], []
        for label in rng.integers(len(COLOURS), size=3):
            w, h = rng.integers(size // 8, size // 2, size=2)
            x, y = rng.integers(size - w + 1), rng.integers(size - h + 1)
            place = (slice(y, y + h), slice(x, x + w))
            if free[place].all():  # a covered rectangle would be ground truth nobody can see
                free[place] = False
                crop[place] = COLOURS[label]
                boxes.append((x, y, x + w, y + h))
                labels.append(label)
        return (normalize(crop, Normalization()), torch.tensor(boxes, dtype=torch.float32),
                torch.tensor(np.array(labels)))

    def batch(self, count: int, device: torch.device | str
              ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """``count`` images as one tensor, and their boxes and classes, one tensor an image."""
        images, boxes, labels = zip(*(self.image() for _ in range(count)))
        return (torch.cat(images).to(device), [b.to(device) for b in boxes],
                [v.to(device) for v in labels])


class CenterNet(nn.Module):
    """A narrow ResNet-18, CenterNet's neck, and heads for the heatmap, sizes and offsets.

    The backbone has stride 8 in place of 32, and the neck one stage in place of three: so much
    learns in some tens of steps. The maps have CenterNet's stride, 4.

    Args:
        classes: number of classes.
        width: channels of the backbone's first stage.
        dcn: the neck's 3x3 convolutions are modulated deformable ones.
    """

    def __init__(self, classes: int = len(COLOURS), width: int = 16, dcn: bool = False) -> None:
        super().__init__()
        self.backbone = build_backbone(dict(type="ResNet", depth=18, base_channels=width,
                                            strides=(1, 2, 1, 1), out_indices=(3,),
                                            norm_eval=False))
        self.neck = build_neck(dict(type="CTResNetNeck", in_channel=8 * width,
                                    num_deconv_filters=(2 * width,), num_deconv_kernels=(4,),
                                    use_dcn=dcn))
        for part in (self.backbone, self.neck):
            assert isinstance(part, BaseModule)
            part.init_weights()
        self.heatmap, self.wh, self.offset = (
            nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
                          nn.Conv2d(2 * width, channels, 1)) for channels in (classes, 2, 2))
        last = self.heatmap[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.constant_(last.bias, -2.19)  # every cell starts at a tenth

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the heatmap [B, classes, H, W], and widths and offsets, each [B, 2, H, W]."""
        feature, = self.neck(self.backbone(images))
        return self.heatmap(feature), self.wh(feature), self.offset(feature)


def centernet_loss(heatmap: Tensor, wh: Tensor, offset: Tensor, target: dict[str, Tensor],
                   count: Tensor) -> Tensor:
    """Gaussian focal loss of the heatmap and L1 losses of sizes and offsets, weighed 1, 0.1 and 1.

    Args:
        heatmap: [B, classes, H, W] logits.
        wh: [B, 2, H, W] widths and heights, in cells.
        offset: [B, 2, H, W] from a cell to the centre, in cells.
        target: of ``centernet_targets``.
        count: number of centres, by which all is divided.
    """
    truth, p = target["center_heatmap_target"], heatmap.sigmoid()
    centres = F.logsigmoid(heatmap) * (1 - p) ** 2 * (truth == 1)
    others = F.logsigmoid(-heatmap) * p ** 2 * (1 - truth) ** 4
    weight = target["wh_offset_target_weight"]
    size = (weight * (wh - target["wh_target"]).abs()).sum() / 2
    shift = (weight * (offset - target["offset_target"]).abs()).sum() / 2
    return (0.1 * size + shift - (centres + others).sum()) / count


def train(steps: int = 50, size: int = 128, batch: int = 4, width: int = 16, lr: float = 2e-3,
          device: torch.device | str = "cpu", dcn: bool = False, seed: int = 0,
          log_every: int = 0) -> list[float]:
    """Train from nothing, on new images in every step.

    Args:
        steps: optimiser steps.
        size: side of the images in pixels, a multiple of 32.
        batch: images a step.
        width: channels of the backbone's first stage.
        lr: learning rate of Adam.
        device: where to train.
        dcn: the neck's 3x3 convolutions are modulated deformable ones.
        seed: of weights and images.
        log_every: print the loss at every so many steps and at the last; 0 prints nothing.

    Returns:
        The loss of every step.

    Raises:
        ValueError: ``size`` is not a multiple of 32, or larger than the photograph.
    """
    images = Rectangles(size, seed)
    torch.manual_seed(seed)
    model = CenterNet(width=width, dcn=dcn).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    losses = []
    for step in range(steps):
        x, boxes, labels = images.batch(batch, device)
        heatmap, wh, offset = model(x)
        target, count = centernet_targets(boxes, labels, heatmap.shape, x.shape[2:])
        loss = centernet_loss(heatmap, wh, offset, target, count)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if log_every and (step % log_every == 0 or step == steps - 1):
            print(f"step {step:4d}   loss {losses[-1]:.4f}", flush=True)
    return losses


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.examples.centernet",
                                     description="Train a small CenterNet on rectangles.")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, default=128, help="side of an image in pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dcn", action="store_true",
                        help="modulated deformable convolutions in the neck")
    args = parser.parse_args(argv)
    train(args.steps, args.size, device=args.device, dcn=args.dcn, log_every=5)


if __name__ == "__main__":
    main()
