"""mmcv's focal losses: their means, their weights by class, and the modules."""

import pytest
import torch

from fastdet.kernels import focal_losses as operators
from fastdet.ops import (
    SigmoidFocalLoss,
    SoftmaxFocalLoss,
    sigmoid_focal_loss,
    softmax_focal_loss,
)

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 4, 3, 1, 4, 2])
WEIGHT = torch.tensor([1.0, 2, 3, 4])


def test_sigmoid_mean_is_over_rows():
    each = operators.sigmoid_focal_loss(X, LABELS, reduction="none")
    close = torch.testing.assert_close
    close(sigmoid_focal_loss(X, LABELS, reduction="none"), each)
    close(sigmoid_focal_loss(X, LABELS), each.sum() / 6)
    close(sigmoid_focal_loss(X, LABELS, reduction="sum"), each.sum())


def test_sigmoid_weight_is_that_of_the_label():
    each = sigmoid_focal_loss(X, LABELS, 1.5, 0.3, reduction="none")
    rows = torch.tensor([1.0, 1, 4, 2, 1, 3])[:, None]
    got = sigmoid_focal_loss(X, LABELS, 1.5, 0.3, WEIGHT, "none")
    torch.testing.assert_close(got, each * rows)


def test_softmax_is_the_operator():
    labels = LABELS.clamp(max=3)
    for reduction in ("none", "mean", "sum"):
        got = softmax_focal_loss(X, labels, 1.5, 0.3, WEIGHT, reduction)
        want = operators.softmax_focal_loss(X, labels, WEIGHT, 1.5, 0.3, reduction)
        assert torch.equal(got, want)
    labels[0] = -1
    assert softmax_focal_loss(X, labels, reduction="none")[0] == 0


@pytest.mark.parametrize(("module", "function"), [
    (SigmoidFocalLoss, sigmoid_focal_loss), (SoftmaxFocalLoss, softmax_focal_loss)])
def test_modules(module, function):
    loss = module(2.0, 0.25, WEIGHT, "sum")
    labels = LABELS.clamp(max=3)
    assert torch.equal(loss(X, labels), function(X, labels, 2.0, 0.25, WEIGHT, "sum"))
    assert list(loss.state_dict()) == ["weight"]
    assert repr(loss) == f"{module.__name__}(gamma=2.0, alpha=0.25, reduction=sum)"
    assert not list(module(2.0, 0.25).state_dict())


@pytest.mark.parametrize("function", [sigmoid_focal_loss, softmax_focal_loss])
def test_bad_input(function):
    with pytest.raises(ValueError, match=r"got \[6, 4\] and \[3\]"):
        function(X, LABELS[:3])
    with pytest.raises(ValueError, match=r"weight must be \[4\], got \[2\]"):
        function(X, LABELS.clamp(max=3), weight=WEIGHT[:2])
