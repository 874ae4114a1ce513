"""Assigning a batch is assigning each image: what padding and validity must not change."""

import numpy as np
import pytest
import torch

from fastdet.core.bbox import GroundTruth, build_assigner
from fastdet.core.bbox.two_gaussians import two_gaussians

CLASSES = 3


def boxes(n, seed, size=64.0, least=6.0):
    g = torch.Generator().manual_seed(seed)
    at = torch.rand(n, 2, generator=g, dtype=torch.float64) * (size - least)
    side = least + torch.rand(n, 2, generator=g, dtype=torch.float64) * (size - at - least)
    return torch.cat([at, at + side], dim=1)


@pytest.fixture
def batch():
    """Anchors, three images with 3, 0 and 1 gts, predictions."""
    gts = [boxes(n, i) for i, n in enumerate((3, 0, 1))]
    labels = [torch.arange(len(one)) % CLASSES for one in gts]
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    at = torch.stack([x, y], -1).view(-1, 2).double() * 8
    anchors = torch.cat([at - 8, at + 12], dim=1)
    pred = torch.stack([anchors + 3 * torch.randn(
        64, 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(3)])
    score = torch.rand(3, 64, CLASSES, generator=torch.Generator().manual_seed(7),
                       dtype=torch.float64)
    return anchors, at, gts, labels, pred, score


def each_image(assigner, gts, labels, one):
    """The gts that an assigner of single images finds, [B, N]."""
    return torch.stack([one(assigner, i, gts[i], labels[i]).gt_inds for i in range(len(gts))])


@pytest.mark.parametrize("kind", ["SimOTAAssigner", "GridAssigner", "UniformAssigner",
                                  "TaskAlignedAssigner"])
def test_a_batch_is_its_images(batch, kind):
    anchors, at, gts, labels, pred, score = batch
    padded = GroundTruth.pad(gts, labels)
    priors = torch.cat([at + 4, torch.full_like(at, 8.0)], dim=1)
    flags = torch.arange(3 * 64).view(3, 64) % 5 > 0
    cfg, together, alone = {
        "SimOTAAssigner": (
            {}, lambda a: a.assign_batch(score, priors, pred, padded),
            lambda a, i, b, c: a.assign(score[i], priors, pred[i], b, c)),
        "GridAssigner": (
            {"pos_iou_thr": 0.3, "neg_iou_thr": 0.2},
            lambda a: a.assign_batch(anchors, flags, padded),
            lambda a, i, b, c: a.assign(anchors, flags[i], b, c)),
        "UniformAssigner": (
            {"pos_ignore_thr": 0.1, "neg_ignore_thr": 0.4},
            lambda a: a.assign_batch(pred, anchors, padded),
            lambda a, i, b, c: a.assign(pred[i], anchors, b, gt_labels=c)),
        "TaskAlignedAssigner": (
            {"topk": 5}, lambda a: a.assign_batch(score, pred, anchors, padded),
            lambda a, i, b, c: a.assign(score[i], pred[i], anchors, b, gt_labels=c)),
    }[kind]
    assigner = build_assigner({"type": kind, **cfg})
    got = together(assigner)[0]
    torch.testing.assert_close(got, each_image(assigner, gts, labels, alone))
    assert (got > 0).any(1).tolist() == [True, False, True]


@pytest.mark.parametrize("foreground", [False, True])
def test_shadows_of_a_batch_are_those_of_its_images(batch, foreground):
    anchors, _, gts, labels, _, _ = batch
    assigner = build_assigner({"type": "CenterRegionAssigner", "pos_scale": 0.4, "neg_scale": 0.8,
                               "foreground_dominate": foreground})
    gt_inds, shadow = assigner.assign_shadowed(anchors, GroundTruth.pad(gts, labels), CLASSES)
    for i, (mine, classes) in enumerate(zip(gts, labels)):
        alone = assigner.assign(anchors, mine, gt_labels=classes)
        torch.testing.assert_close(gt_inds[i], alone.gt_inds)
        pairs = torch.zeros(64, CLASSES, dtype=torch.bool)
        pairs[tuple(alone.get_extra_property("shadowed_labels").T)] = True
        assert torch.equal(shadow[i], pairs)
    assert shadow.flatten(1).any(1)[:2].tolist() == [True, False]


def test_anchors_that_are_not_valid_take_part_in_nothing(batch):
    anchors, _, gts, labels, pred, score = batch
    valid = (torch.arange(64) % 2 == 0).expand(3, 64)
    padded = GroundTruth.pad(gts, labels)
    for kind, cfg, call in (
            ("UniformAssigner", {"pos_ignore_thr": 0.1, "neg_ignore_thr": 0.4},
             lambda a: a.assign_batch(pred, anchors, padded, valid)),
            ("TaskAlignedAssigner", {"topk": 5},
             lambda a: a.assign_batch(score, pred, anchors, padded, valid))):
        got = call(build_assigner({"type": kind, **cfg}))[0]
        assert (got[:, 1::2] == -1).all(), kind
        assert (got[:, ::2] > 0).any(), kind


def test_two_gaussians_part_what_is_far_apart():
    """Rows of any length at once, each as alone; ``inf`` behind them."""
    low, high = np.array([0.1, 0.15, 0.2, 0.22]), np.array([3.0, 3.1, 3.3])
    row = np.concatenate([low, high, [np.inf]])
    short = np.concatenate([low[:1], high[:2], [np.inf] * 5])
    first, score = two_gaussians(np.stack([row, short]), np.array([7, 3]))
    assert first[0, :7].tolist() == [True] * 4 + [False] * 3
    assert first[1, :3].tolist() == [True, False, False]
    alone, of_it = two_gaussians(row[None, :7], np.array([7]))
    assert (first[0, :7] == alone[0]).all()
    np.testing.assert_allclose(score[0, :7], of_it[0], rtol=1e-12)


@pytest.mark.parametrize(("tied", "want"), [
    (False, [-0.4871836442, 0.3230850077, -0.3452237136, -1.4114949914, -0.6197263957,
             -1.3059910118]),
    (True, [-0.5578293206, -0.3414499729, -0.5120268888, -1.7243150028, -0.3506457235,
            -1.5296286049])])
def test_two_gaussians_are_scikit_learns(tied, want):
    """``GaussianMixture(2, weights_init=[.5, .5], ...)`` of scikit-learn 1.9, ``score_samples``."""
    values = np.array([[0.2, 0.4, 0.55, 1.4, 1.9, 2.3]])
    first, score = two_gaussians(values, np.array([6]), tied=tied)
    np.testing.assert_allclose(score[0], want, rtol=1e-6)
    assert first[0].tolist() == [True] * 3 + [False] * 3
