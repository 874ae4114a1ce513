"""The focal losses: sigmoid, quality, varifocal, gaussian and softmax focal loss."""

from .op import (
    can_run_focal_losses,
    gaussian_focal_loss,
    quality_focal_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
    varifocal_loss,
)

__all__ = ["can_run_focal_losses", "gaussian_focal_loss", "quality_focal_loss",
           "sigmoid_focal_loss", "softmax_focal_loss", "varifocal_loss"]
