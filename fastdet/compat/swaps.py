"""Which modules of other packages run on our operators, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastdet.kernels.deform_conv2d import deform_conv2d
from fastdet.kernels.roi_align import multi_level_roi_align, roi_align
from fastdet.kernels.spatial_reduction_attention import spatial_reduction_attention
from fastdet.kernels.window_attention import window_attention
from fastdet.kernels.window_attention.reference import standard_index

from .torchvision_ops import serves_torchvision

__all__ = ["FAMILIES", "Family", "Refusal"]


class Refusal(Exception):
    """Why a module is left alone, in one sentence."""


def _always(module: nn.Module) -> tuple[str, ...]:
    return ()


def _never(module: Any, *args: Any) -> Any:
    raise AssertionError("a module that is left alone runs on")


@dataclass(frozen=True)
class Family:
    """Modules of one class.

    Attributes:
        operator: what they run on.
        forward: the method that runs it; calls ``super(type(self), self)`` for its own path.
        method: its name.
        fits: names of the submodules that it does not call; raises :class:`Refusal` for a module
            that is not built as expected.
        refuses: why none of them is swapped, else empty.
        cpu: what it brought on a CPU, where that was nothing; such a module is left alone there.
    """

    operator: str
    forward: Callable[..., Any] = _never
    method: str = "forward"
    fits: Callable[[Any], tuple[str, ...]] = _always
    refuses: str = ""
    cpu: str = ""


def _own(module: Any, method: str = "forward") -> Any:
    """The module's own method, which ours stands over."""
    return getattr(super(type(module), module), method)


def _plain(module: nn.Module, **kinds: type[nn.Module]) -> None:
    """Refuse submodules of another class, such as adapters and quantised layers."""
    for name, kind in kinds.items():
        if type(module.get_submodule(name)) is not kind:
            raise Refusal(f"its {name} is a {type(module.get_submodule(name)).__name__}, not a "
                          f"{kind.__name__}")


def _standard(table: Tensor, index: Tensor, window: Any, heads: int) -> None:
    """Refuse windows that are not square, and an index that is not Swin's."""
    height, width = window
    if height != width:
        raise Refusal(f"its windows are {height} x {width}; the kernels take square ones")
    rows = (2 * height - 1) ** 2
    if tuple(table.shape) != (rows, heads):
        raise Refusal(f"its bias table is {list(table.shape)}, not [{rows}, {heads}]")
    if not torch.equal(index.view(height**2, -1), standard_index(height, index.device)):
        raise Refusal("its relative_position_index is not Swin's")


def _bias(linear: nn.Linear, like: Tensor) -> Tensor | None:
    """What a padded token, a zero, is after a projection."""
    return None if linear.bias is None else linear.bias.to(like.dtype)


# MMDetection 2.x and 3.x: ShiftWindowMSA around WindowMSA.
def _mmdet_fits(module: Any) -> tuple[str, ...]:
    msa = module.w_msa
    known = ("mmdet.models.backbones.swin", "WindowMSA")
    if (type(msa).__module__, type(msa).__qualname__) != known:
        raise Refusal(f"its w_msa is a {type(msa).__name__}")
    _plain(msa, qkv=nn.Linear, attn_drop=nn.Dropout, softmax=nn.Softmax)
    _standard(msa.relative_position_bias_table, msa.relative_position_index, msa.window_size,
              msa.num_heads)
    return "w_msa", "w_msa.attn_drop", "w_msa.softmax"


def _mmdet(self: Any, query: Tensor, hw_shape: Any) -> Tensor:
    msa, (height, width) = self.w_msa, hw_shape
    qkv = msa.qkv(query)
    out = window_attention(
        qkv, msa.relative_position_bias_table, (height, width), num_heads=msa.num_heads,
        window_size=self.window_size, shift=self.shift_size, scale=msa.scale,
        pad_value=_bias(msa.qkv, qkv),
        dropout_p=msa.attn_drop.p if msa.attn_drop.training else 0.0)
    return self.drop(msa.proj_drop(msa.proj(out)))


# timm: the block cuts the windows, its attn attends. It pads after it has rolled, so that only
# maps that divide into windows are the same.
def _timm_fits(module: Any) -> tuple[str, ...]:
    attn = module.attn
    known = ("timm.models.swin_transformer", "WindowAttention")
    if (type(attn).__module__, type(attn).__qualname__) != known:
        raise Refusal(f"its attn is a {type(attn).__name__}")
    _plain(attn, qkv=nn.Linear, attn_drop=nn.Dropout)
    _standard(attn.relative_position_bias_table, attn.relative_position_index, attn.window_size,
              attn.num_heads)
    return "attn", "attn.attn_drop", "attn.softmax"


def _timm(self: Any, x: Tensor) -> Tensor:
    attn, (_, height, width, _) = self.attn, x.shape
    (w, across), (shift, shift_x) = self.window_size, self.shift_size
    masked = not shift or self.dynamic_mask or tuple(self.input_resolution) == (height, width)
    if w != across or shift != shift_x or height % w or width % w or not masked:
        return _own(self, "_attn")(x)
    out = window_attention(
        attn.qkv(x.flatten(1, 2)), attn.relative_position_bias_table, (height, width),
        num_heads=attn.num_heads, window_size=w, shift=shift, scale=attn.scale,
        dropout_p=attn.attn_drop.p if attn.attn_drop.training else 0.0)
    return attn.proj_drop(attn.proj(out)).unflatten(1, (height, width))


# torchvision: one module does it all; it pads before it rolls.
def _torchvision_fits(module: Any) -> tuple[str, ...]:
    _plain(module, qkv=nn.Linear, proj=nn.Linear)
    _standard(module.relative_position_bias_table, module.relative_position_index,
              module.window_size, module.num_heads)
    if module.shift_size[0] != module.shift_size[1]:
        raise Refusal(f"its shifts are {module.shift_size}; the kernels take one for both axes")
    return ()


def _torchvision(self: Any, x: Tensor) -> Tensor:
    (_, height, width, _), w = x.shape, self.window_size[0]
    if self.shift_size[0] and (height <= w) != (width <= w):  # it would roll along one axis alone
        return _own(self)(x)
    shift = 0 if height <= w else self.shift_size[0]
    qkv = self.qkv(x.flatten(1, 2))
    out = window_attention(
        qkv, self.relative_position_bias_table, (height, width), num_heads=self.num_heads,
        window_size=w, shift=shift, pad_value=_bias(self.qkv, qkv),
        dropout_p=self.attention_dropout if self.training else 0.0)
    out = F.dropout(self.proj(out), self.dropout, self.training)
    return out.unflatten(1, (height, width))


# transformers: the layer cuts the windows; attention maps exist in its eager form alone.
def _joined(x: Tensor, *linears: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Several projections of one tensor as one, and their bias."""
    weight = torch.cat([linear.weight for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    return F.linear(x, weight, bias), bias


def _hf_swin_fits(module: Any) -> tuple[str, ...]:
    attn = module.attention
    known = ("transformers.models.swin.modeling_swin", "SwinAttention")
    if (type(attn).__module__, type(attn).__qualname__) != known:
        raise Refusal(f"its attention is a {type(attn).__name__}")
    _plain(attn, q_proj=nn.Linear, k_proj=nn.Linear, v_proj=nn.Linear)
    relative = attn.relative_position_bias
    _standard(relative.relative_position_bias_table, relative.relative_position_index,
              relative.window_size, attn.num_attention_heads)
    return ("attention", "attention.q_proj", "attention.k_proj", "attention.v_proj",
            "attention.relative_position_bias")


def _hf_swin(self: Any, hidden_states: Tensor, input_dimensions: tuple[int, int],
             always_partition: bool = False, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    attn = self.attention
    if not always_partition:
        self.set_shift_and_window_size(input_dimensions)
    w = int(self.window_size)
    if attn.config._attn_implementation == "eager" or \
            w != attn.relative_position_bias.window_size[0]:
        return _own(self)(hidden_states, input_dimensions, always_partition, **kwargs)
    height, width = input_dimensions
    qkv, bias = _joined(self.layernorm_before(hidden_states), attn.q_proj, attn.k_proj,
                        attn.v_proj)
    out = window_attention(
        qkv, attn.relative_position_bias.relative_position_bias_table, (height, width),
        num_heads=attn.num_attention_heads, window_size=w, shift=int(self.shift_size),
        scale=attn.scaling, pad_value=None if bias is None else bias.to(qkv.dtype),
        dropout_p=attn.attention_dropout if attn.training else 0.0)
    hidden_states = hidden_states + self.drop_path(self.dropout(attn.o_proj(out)))
    out = self.mlp(self.layernorm_after(hidden_states))
    return self.dropout(out) + hidden_states, None


def _hf_pvt_fits(module: Any) -> tuple[str, ...]:
    _plain(module, key=nn.Linear, value=nn.Linear)
    drop = "dropout" if hasattr(module, "dropout") else "attn_drop"
    return "key", "value", drop


def _attend(self: Any, query: Tensor, reduced: Tensor, drop: nn.Dropout) -> Tensor:
    kv, _ = _joined(reduced, self.key, self.value)
    return spatial_reduction_attention(
        query, kv.to(query.dtype), self.num_attention_heads,
        dropout_p=drop.p if drop.training else 0.0)


def _hf_pvt(self: Any, hidden_states: Tensor, height: int, width: int,
            output_attentions: bool = False) -> tuple[Tensor, ...]:
    if output_attentions:
        return _own(self)(hidden_states, height, width, output_attentions)
    query = self.query(hidden_states)
    if self.sequences_reduction_ratio > 1:
        image = hidden_states.transpose(1, 2).unflatten(2, (height, width))
        hidden_states = self.layer_norm(self.sequence_reduction(image).flatten(2).transpose(1, 2))
    return (_attend(self, query, hidden_states, self.dropout),)


def _hf_pvt_v2(self: Any, hidden_states: Tensor, height: int, width: int,
               output_attentions: bool = False) -> tuple[Tensor, ...]:
    if output_attentions:
        return _own(self)(hidden_states, height, width, output_attentions)
    query = self.query(hidden_states)
    if self.linear_attention or self.spatial_reduction_ratio > 1:
        image = hidden_states.transpose(1, 2).unflatten(2, (height, width))
        image = self.pool(image) if self.linear_attention else image
        hidden_states = self.layer_norm(self.spatial_reduction(image).flatten(2).transpose(1, 2))
        hidden_states = self.act(hidden_states) if self.linear_attention else hidden_states
    return (self.proj_drop(self.proj(_attend(self, query, hidden_states, self.attn_drop))),)


# torchvision's operators as modules.
def _deform_conv(self: Any, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
    taps = self.kernel_size[0] * self.kernel_size[1]
    return deform_conv2d(
        input, offset, self.weight, mask=mask, bias=self.bias, stride=self.stride,
        padding=self.padding, dilation=self.dilation, groups=self.groups,
        deform_groups=offset.shape[1] // (2 * taps))


def _not_served(module: Any) -> tuple[str, ...]:
    if serves_torchvision():
        raise Refusal("torchvision's operator is fastdet's already (serve_torchvision)")
    return ()


def _regions(boxes: Any) -> Tensor:
    """Regions ``[N, 5]`` of a list of boxes per image."""
    if isinstance(boxes, Tensor):
        return boxes
    image = [box.new_full((len(box), 1), i) for i, box in enumerate(boxes)]
    return torch.cat([torch.cat(image), torch.cat(list(boxes))], 1)


def _roi_align(self: Any, input: Tensor, rois: Any) -> Tensor:
    return roi_align(input, _regions(rois), self.output_size, self.spatial_scale,
                     max(self.sampling_ratio, 0), aligned=self.aligned)


def _multi_scale(self: Any, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
    """All levels in one call, without a word from the host."""
    from torchvision.ops.poolers import _setup_scales

    feats = [feat for name, feat in x.items() if name in self.featmap_names]
    if self.scales is None or self.map_levels is None:
        self.scales, self.map_levels = _setup_scales(
            feats, image_shapes, self.canonical_scale, self.canonical_level)
    levels = self.map_levels(boxes) if len(feats) > 1 else boxes[0].new_zeros(sum(map(len, boxes)))
    return multi_level_roi_align(
        feats, _regions(boxes), self.output_size, self.scales, max(self.sampling_ratio, 0),
        aligned=False, levels=levels)


#: What the attentions brought on a CPU: whole models, 224 x 448, torch 2.13, one thread, CPU time.
_MMDET = "MMDetection's Swin-T 1.03 forward, 0.98 with backward"
_TIMM = "timm's Swin-T 1.02 forward, 1.00 with backward"
_TV = "torchvision's Swin-T 1.00 forward, 1.00 with backward"
_HF_SWIN = "transformers' Swin-T 0.96 forward, 0.98 with backward"
_HF_PVT = "transformers' PVT-tiny 0.98 forward, 0.96 with backward"
_HF_PVT_V2 = "transformers' PVTv2-b0 1.03 forward, 1.01 with backward"

_COSINE = "cosine attention (Swin V2) has no kernel here"
_SWIN, _SRA = "window_attention", "spatial_reduction_attention"
_POOLERS, _HF = "torchvision.ops.poolers", "transformers.models"

#: By the module and name under which a class is defined.
FAMILIES: dict[tuple[str, str], Family] = {
    ("mmdet.models.backbones.swin", "ShiftWindowMSA"):
        Family(_SWIN, _mmdet, fits=_mmdet_fits, cpu=_MMDET),
    ("timm.models.swin_transformer", "SwinTransformerBlock"):
        Family(_SWIN, _timm, "_attn", _timm_fits, cpu=_TIMM),
    ("timm.models.swin_transformer_v2", "SwinTransformerV2Block"): Family(_SWIN, refuses=_COSINE),
    ("torchvision.models.swin_transformer", "ShiftedWindowAttention"):
        Family(_SWIN, _torchvision, fits=_torchvision_fits, cpu=_TV),
    ("torchvision.models.swin_transformer", "ShiftedWindowAttentionV2"):
        Family(_SWIN, refuses=_COSINE),
    (f"{_HF}.swin.modeling_swin", "SwinLayer"):
        Family(_SWIN, _hf_swin, fits=_hf_swin_fits, cpu=_HF_SWIN),
    (f"{_HF}.swinv2.modeling_swinv2", "Swinv2Layer"): Family(_SWIN, refuses=_COSINE),
    (f"{_HF}.pvt.modeling_pvt", "PvtEfficientSelfAttention"):
        Family(_SRA, _hf_pvt, fits=_hf_pvt_fits, cpu=_HF_PVT),
    (f"{_HF}.pvt_v2.modeling_pvt_v2", "PvtV2SelfAttention"):
        Family(_SRA, _hf_pvt_v2, fits=_hf_pvt_fits, cpu=_HF_PVT_V2),
    ("torchvision.ops.deform_conv", "DeformConv2d"): Family("deform_conv2d", _deform_conv),
    ("torchvision.ops.roi_align", "RoIAlign"): Family("roi_align", _roi_align, fits=_not_served),
    (_POOLERS, "MultiScaleRoIAlign"): Family("roi_align", _multi_scale),
}
