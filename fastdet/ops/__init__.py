"""What MMDetection code takes from ``mmcv.ops``: functions and layers around the operators.

Importing this package registers the convolutions ``DCN``, ``DCNv2`` and ``SAC``, the attention
``MultiScaleDeformableAttention`` and the upsampling layer ``carafe``.
"""

from .carafe import CARAFE, CARAFENaive, CARAFEPack, carafe, carafe_naive
from .deform_conv import DeformConv2d, DeformConv2dPack, deform_conv2d
from .focal_loss import (
    SigmoidFocalLoss,
    SoftmaxFocalLoss,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from .merge_cells import BaseMergeCell, ConcatCell, GlobalPoolingCell, SumCell
from .modulated_deform_conv import (
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
    modulated_deform_conv2d,
)
from .multi_scale_deform_attn import (
    MultiScaleDeformableAttention,
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)
from .nms import batched_nms, nms, nms_match, soft_nms
from .saconv import SAConv2d

__all__ = [
    "CARAFE", "BaseMergeCell", "CARAFENaive", "CARAFEPack", "ConcatCell", "GlobalPoolingCell",
    "SumCell", "carafe", "carafe_naive",
    "DeformConv2d", "DeformConv2dPack", "ModulatedDeformConv2d", "ModulatedDeformConv2dPack",
    "MultiScaleDeformableAttention", "MultiScaleDeformableAttnFunction", "SAConv2d",
    "SigmoidFocalLoss", "SoftmaxFocalLoss", "batched_nms", "nms", "nms_match",
    "sigmoid_focal_loss", "soft_nms", "softmax_focal_loss",
    "deform_conv2d", "modulated_deform_conv2d", "multi_scale_deformable_attn_pytorch",
]
