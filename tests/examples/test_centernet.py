"""The CenterNet example learns, and learns the same from targets that the kernels draw."""

import numpy as np
import pytest
import torch

import fastdet
from benchmarks.examples.centernet import (
    COLOURS,
    CenterNet,
    Rectangles,
    centernet_loss,
    main,
    train,
)
from fastdet.cli.backends import record_choices
from fastdet.models.utils.gaussian_target import centernet_targets

FEW = dict(steps=4, size=64, batch=4)


def test_the_boxes_are_where_the_rectangles_are():
    images = Rectangles(64, seed=1)
    x, boxes, labels = images.batch(4, "cpu")
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    pixels = x.permute(0, 2, 3, 1) * std + mean
    assert x.shape == (4, 3, 64, 64)
    for image, own, classes in zip(pixels, boxes, labels):
        assert 1 <= len(own) == len(classes) <= 3
        for (x1, y1, x2, y2), label in zip(own.int().tolist(), classes):
            colour = torch.from_numpy(COLOURS[label].astype(np.float32))
            torch.testing.assert_close(image[y1:y2, x1:x2], colour.expand(y2 - y1, x2 - x1, 3),
                                       rtol=0, atol=1e-3)


def test_sizes_that_do_not_fit_are_refused():
    for size in (0, 100, 544):
        with pytest.raises(ValueError, match=f"multiple of 32 up to 512, got {size}"):
            Rectangles(size, seed=0)


def test_the_loss_of_perfect_maps_is_nothing():
    boxes, labels = [torch.tensor([[4.0, 8.0, 30.0, 40.0]])], [torch.tensor([2])]
    target, count = centernet_targets(boxes, labels, (1, 3, 16, 16), (64, 64))
    heatmap = torch.where(target["center_heatmap_target"] == 1, 30.0, -30.0)
    maps = (heatmap, target["wh_target"], target["offset_target"])
    assert centernet_loss(*maps, target, count) < 1e-6
    one_off = (heatmap, maps[1] + 1, maps[2] + 2)  # 0.1 for the size, 2 for the offset
    torch.testing.assert_close(centernet_loss(*one_off, target, count), torch.tensor(2.1))


@pytest.mark.parametrize("dcn", [False, True])
def test_every_parameter_learns(dcn):
    images, model = Rectangles(64, seed=0), CenterNet(width=4, dcn=dcn)
    x, boxes, labels = images.batch(2, "cpu")
    outputs = model(x)
    assert [tuple(o.shape) for o in outputs] == [(2, c, 16, 16) for c in (3, 2, 2)]
    centernet_loss(*outputs, *centernet_targets(boxes, labels, outputs[0].shape, (64, 64))
                   ).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_loss_falls_below_half_in_fifty_steps():
    losses = train(steps=50, size=64, batch=8)
    assert len(losses) == 50
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def test_the_command_prints_the_loss(capsys):
    main(["--steps", "7", "--size", "32"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [["step", s, "loss"] for s in "056"]
    assert all(np.isfinite(float(line.split()[3])) for line in lines)


@pytest.mark.kernel
def test_targets_from_the_kernels_train_alike(kernel_device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with record_choices() as choices:
        ours = train(**FEW, device=kernel_device)
    took = choices["gaussian_targets"]
    assert {backend: calls for backend, (calls, _) in took.items()} == {"triton": FEW["steps"]}
    with fastdet.backend("torch"):
        want = train(**FEW, device=kernel_device)
    np.testing.assert_allclose(ours, want, rtol=1e-5, atol=0)
    assert ours[-1] < 0.9 * ours[0]
