"""Suppression of boxes and masks of many classes, and merging of views."""

import numpy as np
import pytest
import torch

from fastdet.core import (
    bbox_mapping,
    fast_nms,
    mask_matrix_nms,
    merge_aug_bboxes,
    merge_aug_masks,
    merge_aug_proposals,
    merge_aug_scores,
    multiclass_nms,
)

CFG = {"type": "nms", "iou_threshold": 0.5}
BOXES = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
SCORES = torch.tensor([[0.6, 0.1, 0.3], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1]])


def test_multiclass_nms():
    dets, labels, inds = multiclass_nms(BOXES, SCORES, 0.1, CFG, return_inds=True)
    assert inds.tolist() == [5, 0, 3, 4]  # 0.1 is not more than 0.1; box 1 goes in class 0 alone
    assert labels.tolist() == [1, 0, 1, 0]
    assert torch.equal(dets[:, :4], BOXES[inds // 2])
    assert torch.equal(dets[:, 4], SCORES[inds // 2, labels])
    assert len(multiclass_nms(BOXES, SCORES, 0.1, CFG, 2)) == 2
    assert multiclass_nms(BOXES, SCORES, 0.1, CFG, 2)[1].tolist() == [1, 0]
    dets, labels, inds = multiclass_nms(BOXES, SCORES, 0.9, CFG, return_inds=True)
    assert (dets.shape, labels.shape, inds.shape) == ((0, 5), (0,), (0,))


def test_multiclass_nms_multiplies_after_the_threshold():
    factors = torch.tensor([0.1, 1, 1])
    dets, labels = multiclass_nms(BOXES, SCORES, 0.1, CFG, score_factors=factors)
    torch.testing.assert_close(dets[:, 4].tolist(), [0.7, 0.5, 0.4, 0.2])
    assert labels.tolist() == [1, 0, 1, 0]


def test_multiclass_nms_of_boxes_for_each_class():
    both = torch.cat([BOXES, BOXES + 100], 1)
    dets, labels, inds = multiclass_nms(both, SCORES, 0.1, CFG, return_inds=True)
    assert torch.equal(dets[:, :4], BOXES[inds // 2] + 100 * labels[:, None])
    with pytest.raises(ValueError, match=r"must be \(3, 4\) or \(3, 8\) for scores \(3, 3\)"):
        multiclass_nms(BOXES.repeat(1, 3), SCORES, 0.1, CFG)


def test_fast_nms_drops_what_a_dropped_box_covers():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 4, 10, 14], [0, 8, 10, 18]])
    scores = torch.tensor([[0.9, 0], [0.8, 0], [0.7, 0]])
    coeffs = torch.arange(6.0).view(3, 2)
    dets, labels, kept = fast_nms(boxes, scores, coeffs, 0.1, 0.4, 10)
    assert torch.equal(dets, torch.tensor([[0, 0, 10, 10, 0.9]]))  # plain suppression keeps two
    assert labels.tolist() == [0]
    assert torch.equal(kept, coeffs[:1])
    assert fast_nms(boxes, scores, coeffs, 0.75, 0.9, 10)[0].shape == (2, 5)
    assert fast_nms(boxes, scores, coeffs, 0.1, 0.9, 10, 1)[0].shape == (1, 5)
    assert fast_nms(boxes, scores, coeffs, 0.1, 0.9, 2)[0].shape == (2, 5)


def test_mask_matrix_nms():
    masks = torch.zeros(3, 4, 4)
    masks[0, :, :2], masks[1, :, :1], masks[2, :, 3] = 1, 1, 1  # IoU of the first two: 1 / 2
    labels, scores = torch.tensor([0, 0, 0]), torch.tensor([0.5, 0.9, 0.7])
    got, _, its, index = mask_matrix_nms(masks, labels, scores, kernel="linear")
    torch.testing.assert_close(got, torch.tensor([0.9, 0.7, 0.25]))
    assert index.tolist() == [1, 2, 0]
    assert torch.equal(its, masks[index])
    got = mask_matrix_nms(masks, labels, scores)[0]
    torch.testing.assert_close(got[2].item(), 0.5 * np.exp(-2 * 0.25))
    apart = mask_matrix_nms(masks, torch.arange(3), scores)[0]
    assert torch.equal(apart, scores.sort(descending=True)[0])
    assert mask_matrix_nms(masks, labels, scores, filter_thr=0.6, max_num=1)[3].tolist() == [1]
    assert mask_matrix_nms(masks, labels, scores, nms_pre=2)[3].tolist() == [1, 2]
    assert mask_matrix_nms(masks, labels, scores, filter_thr=2.0)[2].shape == (0, 4, 4)
    with pytest.raises(ValueError, match="'gaussian' or 'linear', got 'box'"):
        mask_matrix_nms(masks, labels, scores, kernel="box")
    with pytest.raises(ValueError, match=r"of one length, got \[3, 3, 2\]"):
        mask_matrix_nms(masks, labels, scores[:2])


def metas():
    common = {"img_shape": (60, 80, 3), "scale_factor": np.array([2.0, 1.5, 2.0, 1.5])}
    return [{**common, "flip": flip, "flip_direction": "horizontal"} for flip in (False, True)]


def views(meta):
    return bbox_mapping(BOXES, meta["img_shape"], meta["scale_factor"], meta["flip"],
                        meta["flip_direction"])


def test_merging_finds_the_boxes_again():
    maps = [views(meta) for meta in metas()]
    boxes = merge_aug_bboxes(maps, None, [[meta] for meta in metas()], None)
    torch.testing.assert_close(boxes, BOXES)
    scores = [torch.rand(3, 2), torch.rand(3, 2)]
    _, merged = merge_aug_bboxes(maps, scores, [[meta] for meta in metas()], None)
    assert torch.equal(merged, merge_aug_scores(scores))
    np.testing.assert_allclose(merge_aug_scores([s.numpy() for s in scores]), merged)


def test_merged_proposals():
    proposals = [torch.cat([views(meta), SCORES[:, :1]], 1) for meta in metas()]
    cfg = {"nms": {"type": "nms", "iou_threshold": 0.9}, "max_per_img": 2}
    got = merge_aug_proposals(proposals, metas(), cfg)
    torch.testing.assert_close(got, torch.cat([BOXES, SCORES[:, :1]], 1)[:2])
    with pytest.warns(UserWarning, match="max_num has been renamed max_per_img"):
        old = merge_aug_proposals(proposals, metas(), {"nms_thr": 0.9, "max_num": 2})
    assert torch.equal(old, got)
    for wrong in ({"max_num": 3}, {"nms_thr": 0.5}):
        with (pytest.warns(UserWarning, match="renamed"),
              pytest.raises(ValueError, match="two names of one setting, and differ")):
            merge_aug_proposals(proposals, metas(), {**cfg, **wrong})


def test_merged_masks():
    mask = np.arange(12.0).reshape(1, 1, 3, 4)
    flips = {"horizontal": mask[..., ::-1], "vertical": mask[..., ::-1, :],
             "diagonal": mask[..., ::-1, ::-1]}
    given = [[{"flip": False}], *([{"flip": True, "flip_direction": name}] for name in flips)]
    np.testing.assert_array_equal(merge_aug_masks([mask, *flips.values()], given, None), mask)
    got = merge_aug_masks([mask, 3 * mask], given[:1] * 2, None, weights=[3, 1])
    np.testing.assert_allclose(got, 1.5 * mask)
    with pytest.raises(ValueError, match="got 'sideways'"):
        merge_aug_masks([mask], [[{"flip": True, "flip_direction": "sideways"}]], None)
