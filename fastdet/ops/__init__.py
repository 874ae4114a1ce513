"""What MMDetection code takes from ``mmcv.ops``: functions and layers around the operators.

Importing this package registers the convolutions ``DCN``, ``DCNv2`` and ``SAC``, the attention
``MultiScaleDeformableAttention`` and the upsampling layer ``carafe``.
"""

from .carafe import CARAFE, CARAFENaive, CARAFEPack, carafe, carafe_naive
from .corner_pool import CornerPool
from .deform_conv import DeformConv2d, DeformConv2dPack, deform_conv2d
from .deform_roi_pool import (
    DeformRoIPool,
    DeformRoIPoolPack,
    ModulatedDeformRoIPoolPack,
    deform_roi_pool,
)
from .focal_loss import (
    SigmoidFocalLoss,
    SoftmaxFocalLoss,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from .info import get_compiler_version, get_compiling_cuda_version, get_onnxruntime_op_path
from .masked_conv import MaskedConv2d, masked_conv2d
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
from .point_sample import SimpleRoIAlign, point_sample, rel_roi_point_to_rel_img_point
from .roi_align import RoIAlign, multi_level_roi_align, roi_align
from .roi_pool import RoIPool, roi_pool
from .saconv import SAConv2d
from .sync_bn import SyncBatchNorm

__all__ = [
    "get_compiler_version", "get_compiling_cuda_version", "get_onnxruntime_op_path",
    "CARAFE", "BaseMergeCell", "CARAFENaive", "CARAFEPack", "ConcatCell", "GlobalPoolingCell",
    "SumCell", "carafe", "carafe_naive",
    "DeformConv2d", "DeformConv2dPack", "ModulatedDeformConv2d", "ModulatedDeformConv2dPack",
    "MultiScaleDeformableAttention", "MultiScaleDeformableAttnFunction", "SAConv2d", "SyncBatchNorm",
    "SigmoidFocalLoss", "SoftmaxFocalLoss", "batched_nms", "nms", "nms_match",
    "sigmoid_focal_loss", "soft_nms", "softmax_focal_loss",
    "CornerPool", "DeformRoIPool", "DeformRoIPoolPack", "MaskedConv2d",
    "ModulatedDeformRoIPoolPack", "RoIAlign", "RoIPool", "SimpleRoIAlign", "deform_roi_pool",
    "masked_conv2d", "multi_level_roi_align", "point_sample", "rel_roi_point_to_rel_img_point",
    "roi_align", "roi_pool",
    "deform_conv2d", "modulated_deform_conv2d", "multi_scale_deformable_attn_pytorch",
]
