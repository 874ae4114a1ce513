"""Official checkpoints of Swin and PVT under the names and layouts of MMDetection."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["pvt_convert", "swin_converter", "to_unfold_order"]


def to_unfold_order(x: Tensor) -> Tensor:
    """The last axis from Swin's own order of merged channels to that of ``torch.nn.Unfold``.

    Swin concatenates the four tokens of a window column by column; Unfold has the channel slowest
    and then goes row by row.
    """
    x = x.unflatten(-1, (2, 2, -1))  # column, row, channel
    return x.permute(*range(x.dim() - 3), -1, -2, -3).flatten(-3)


def swin_converter(ckpt: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reorder a state dict of microsoft/Swin-Transformer.

    Args:
        ckpt: the official state dict.

    Returns:
        The state dict of MMDetection's ``SwinTransformer``, each name behind ``'backbone.'``;
        the classifier is left out.
    """
    out = {}
    for name, value in ckpt.items():
        top = name.split(".")[0]
        if top == "head":
            continue
        if top == "layers":
            name = name.replace("layers", "stages", 1)
            name = name.replace("attn.", "attn.w_msa.", 1)
            name = name.replace("mlp.fc1.", "ffn.layers.0.0.", 1)
            name = name.replace("mlp.fc2.", "ffn.layers.1.", 1)
            if "downsample." in name:
                value = to_unfold_order(value)
        elif top == "patch_embed":
            name = name.replace("proj.", "projection.", 1)
        out[f"backbone.{name}"] = value
    return out


def pvt_convert(ckpt: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and pack a state dict of whai362/PVT, of version 1 or 2.

    The query projection and the key-value projection become one packed input projection, and the
    linear layers of a feed-forward network 1x1 convolutions. The class token goes, and with it its
    place in the position embedding of the last stage.

    Args:
        ckpt: the official state dict.

    Returns:
        The state dict of MMDetection's ``PyramidVisionTransformer``.
    """
    # MMDetection puts the position embedding before a stage's blocks, and a depthwise convolution
    # between its two linear layers, so both shift the numbers of what follows.
    first_block = int(any(name.startswith("pos_embed") for name in ckpt))
    last_fc = 4 if any("dwconv" in name for name in ckpt) else 3
    renames = (("attn.q.", "attn.attn.in_proj_"), ("attn.proj.", "attn.attn.out_proj."),
               ("mlp.fc1.", "ffn.layers.0."), ("mlp.dwconv.dwconv.", "ffn.layers.1."),
               ("mlp.fc2.", f"ffn.layers.{last_fc}."))
    out = {}
    for name, value in ckpt.items():
        top, _, rest = name.partition(".")
        if top in ("head", "norm", "cls_token") or ".attn.kv." in name:
            continue
        if top.startswith("pos_embed"):
            stage = int(top.removeprefix("pos_embed"))
            name = f"layers.{stage - 1}.1.0.pos_embed"
            if stage == 4 and value.shape[1] == 7 * 7 + 1:
                value = value[:, 1:]
        elif top.startswith("patch_embed"):
            stage = int(top.removeprefix("patch_embed"))
            name = f"layers.{stage - 1}.0.{rest}".replace(".proj.", ".projection.")
        elif top.startswith("block"):
            stage = int(top.removeprefix("block"))
            block, _, rest = rest.partition(".")
            if rest.startswith("attn.q."):
                value = torch.cat([value, ckpt[name.replace(".attn.q.", ".attn.kv.")]])
            if rest in ("mlp.fc1.weight", "mlp.fc2.weight"):
                value = value[..., None, None]
            for old, new in renames:
                if rest.startswith(old):
                    rest = new + rest.removeprefix(old)
                    break
            name = f"layers.{stage - 1}.1.{int(block) + first_block}.{rest}"
        elif top.startswith("norm"):
            name = f"layers.{int(top.removeprefix('norm')) - 1}.2.{rest}"
        out[name] = value
    return out
