"""State dicts of other packages under the names and layouts of MMDetection 2.x.

A layout is a list of named rules. A rule takes keys that match its pattern in full and says what
each is called in MMDetection, how its tensor changes, or that it goes. A state dict is of a layout
if every one of its keys is taken by a rule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastdet.models.utils.ckpt_convert import to_unfold_order

__all__ = ["LAYOUTS", "Converted", "Layout", "Rule", "convert", "layout_of"]

Facts = Mapping[str, int]


@dataclass(frozen=True)
class Rule:
    """What becomes of some keys.

    Attributes:
        name: what it does, in a few words.
        pattern: of a whole key.
        to: the new key, a template with the pattern's groups as ``{0}``, ``{1}`` and numbers of
            :attr:`Layout.facts` by name; ``{0:-1}`` is a group's number less one. ``None`` drops
            the key.
        value: what happens to the tensor.
        part: the place of the tensor among those that one new key joins.
    """

    name: str
    pattern: str
    to: str | None
    value: Callable[[Tensor], Tensor] | None = None
    part: int = 0

    def key(self, match: re.Match[str], facts: Facts) -> str | None:
        """The new key of a matched one."""
        groups = [_Group(g or "") for g in match.groups()]
        return None if self.to is None else self.to.format(*groups, **facts)


class _Group(str):
    """A group of a key, which adds a number to itself where its format says so."""

    def __format__(self, spec: str) -> str:
        if "/" in spec:
            shift, by = spec.split("/")
            return str((int(self) + int(shift)) // int(by))
        return str(int(self) + int(spec)) if spec else str(self)


@dataclass(frozen=True)
class Layout:
    """Names of one package's models.

    Attributes:
        name: as ``fastdet convert --from`` takes it.
        title: what it is.
        rules: the first that matches takes a key.
        marks: patterns of which every one must match the beginning of some key, and with ``!``
            before it of none.
        prefix: in front of all keys where it is there.
        facts: numbers that hold for the whole state dict.
    """

    name: str
    title: str
    rules: tuple[Rule, ...]
    marks: tuple[str, ...] = ()
    prefix: str = ""
    facts: Callable[[list[str]], dict[str, int]] = field(default=lambda keys: {})

    def bare(self, keys: list[str]) -> dict[str, str]:
        """The keys without the prefix, each to what it was."""
        return {key.removeprefix(self.prefix): key for key in keys}

    def rule_of(self, key: str) -> tuple[Rule, re.Match[str]] | None:
        """The rule that takes a key."""
        for rule in self.rules:
            if match := re.fullmatch(rule.pattern, key):
                return rule, match
        return None

    def marked(self, keys: list[str]) -> bool:
        """Whether the keys have the marks of the layout."""
        return all(any(re.match(mark.removeprefix("!"), key) for key in keys)
                   != mark.startswith("!") for mark in self.marks)


@dataclass(frozen=True)
class Converted:
    """A state dict of MMDetection 2.x.

    Attributes:
        state_dict: the tensors by their new names.
        layout: what they came from.
        applied: how many keys each rule took.
    """

    state_dict: dict[str, Tensor]
    layout: Layout
    applied: dict[str, int]


def _as_conv(weight: Tensor) -> Tensor:
    """A linear layer's weight as a 1x1 convolution's."""
    return weight[..., None, None] if weight.dim() == 2 else weight


def _without_class(embedding: Tensor) -> Tensor:
    """Position embeddings without that of a class token, which makes one more than a square."""
    n = embedding.shape[1]
    return embedding[:, 1:] if int((n - 1) ** 0.5) ** 2 == n - 1 and n > 2 else embedding


_CLASSIFIER = Rule("the classifier goes", r"(head|fc|classifier)\..*", None)
_INDEX = Rule("the index of positions is computed anew", r".*relative_position_index", None)


def _swin(block: str, to: str, attn: str, table: str, mlp: tuple[str, str]) -> tuple[Rule, ...]:
    """Rules for the blocks of Swin; ``block`` has two groups and ``to`` is what they become."""
    return (
        Rule("a block's norms", rf"{block}\.(norm[12])\.(\w+)", to + ".{2}.{3}"),
        Rule("attention below w_msa", rf"{block}\.{attn}\.(qkv|proj)\.(\w+)",
             to + ".attn.w_msa.{2}.{3}"),
        Rule("the table of position biases", rf"{block}\.{table}",
             to + ".attn.w_msa.relative_position_bias_table"),
        Rule("the first linear layer", rf"{block}\.{mlp[0]}\.(\w+)", to + ".ffn.layers.0.0.{2}"),
        Rule("the second linear layer", rf"{block}\.{mlp[1]}\.(\w+)", to + ".ffn.layers.1.{2}"),
    )


def _merging(pattern: str, stage: str) -> Rule:
    return Rule("patch merging in the order of torch.nn.Unfold", pattern,
                f"stages.{stage}.downsample.{{1}}.{{2}}", to_unfold_order)


def _swin_facts(pattern: str) -> Callable[[list[str]], dict[str, int]]:
    return lambda keys: {"last": max(
        (int(m[1]) for m in (re.match(pattern, key) for key in keys) if m), default=0)}


_PATCHES = Rule("the patches' projection", r"patch_embed\.proj\.(\w+)",
                "patch_embed.projection.{0}")
_PATCH_NORM = Rule("the patches' norm", r"patch_embed\.norm\.(\w+)", "patch_embed.norm.{0}")
_LAST_NORM = Rule("the last norm is that of the last stage", r"norm\.(\w+)", "norm{last}.{0}")
_MS_BLOCK = r"layers\.(\d+)\.blocks\.(\d+)"
_STAGE = "stages.{0}.blocks.{1}"
_MS = (_PATCHES, _PATCH_NORM, _LAST_NORM, _INDEX,
       *_swin(_MS_BLOCK, _STAGE, "attn", r"attn\.relative_position_bias_table",
              (r"mlp\.fc1", r"mlp\.fc2")),
       Rule("masks of shifted windows are computed anew", rf"{_MS_BLOCK}\.attn_mask", None),
       Rule("position embeddings stay", r"(absolute_pos_embed)", "{0}"), _CLASSIFIER)

_HF_BLOCK = r"encoder\.layers\.(\d+)\.blocks\.(\d+)"
_HF_QKV = tuple(
    Rule("query, key and value in one", rf"{_HF_BLOCK}\.attention\.(?:self\.{name}|{name[0]}_proj)"
         r"\.(\w+)", _STAGE + ".attn.w_msa.qkv.{2}", part=i)
    for i, name in enumerate(("query", "key", "value")))


def _pvt_facts(keys: list[str]) -> dict[str, int]:
    """Where the position embedding and the depth-wise convolution move what is behind them."""
    first = any("pos_embed" in key or "position_embeddings" in key for key in keys)
    return {"first": int(first), "fc2": 4 if any("dwconv" in key for key in keys) else 3}


def _pvt(block: str, stage: str, number: str, names: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules for the blocks of PVT; ``names`` are the package's words for its layers."""
    to = f"layers.{stage}.1.{number}"
    qkv = names["qkv"].split()
    return (
        Rule("the first norm", rf"{block}\.{names['norm1']}\.(\w+)", to + ".norm1.{2}"),
        Rule("the second norm", rf"{block}\.{names['norm2']}\.(\w+)", to + ".norm2.{2}"),
        *(Rule("query, key and value in one", rf"{block}\.{name}\.(\w+)",
               to + ".attn.attn.in_proj_{2}", part=i) for i, name in enumerate(qkv)),
        Rule("the output projection", rf"{block}\.{names['proj']}\.(\w+)",
             to + ".attn.attn.out_proj.{2}"),
        Rule("spatial reduction", rf"{block}\.{names['sr']}\.(\w+)", to + ".attn.sr.{2}"),
        Rule("its norm", rf"{block}\.{names['sr_norm']}\.(\w+)", to + ".attn.norm.{2}"),
        Rule("the first linear layer as a convolution", rf"{block}\.mlp\.{names['fc']}1\.(\w+)",
             to + ".ffn.layers.0.{2}", _as_conv),
        Rule("the depth-wise convolution", rf"{block}\.mlp\.dwconv\.(?:dwconv\.)?(\w+)",
             to + ".ffn.layers.1.{2}"),
        Rule("the second linear layer as a convolution", rf"{block}\.mlp\.{names['fc']}2\.(\w+)",
             to + ".ffn.layers.{fc2}.{2}", _as_conv),
    )


_PVT_NAMES = {"norm1": "norm1", "norm2": "norm2", "qkv": r"attn\.q attn\.kv", "proj": r"attn\.proj",
              "sr": r"attn\.sr", "sr_norm": r"attn\.norm", "fc": "fc"}
_HF_PVT_NAMES = {
    "norm1": "layer_norm_1", "norm2": "layer_norm_2", "proj": r"attention\.(?:output\.dense|proj)",
    "qkv": " ".join(rf"attention\.(?:self\.)?{name}" for name in ("query", "key", "value")),
    "sr": r"attention\.(?:self\.)?(?:sequence|spatial)_reduction",
    "sr_norm": r"attention\.(?:self\.)?layer_norm", "fc": "dense"}

_RESNET = r"(?:conv1|bn1|layer\d+\.\d+\.(?:conv\d|bn\d|downsample\.\d))\.\w+"
_HEADS = ("backbone|neck|bbox_head|rpn_head|roi_head|mask_head|panoptic_head|panoptic_fusion_head|"
          "semantic_head|segm_head|mask_feat_head|query_head|teacher|student|model_ema|ema_module")

_PREPROCESSOR = Rule("normalisation of images is the pipeline's", r"data_preprocessor\..*", None)


def _detr(*more: Rule) -> tuple[Rule, ...]:
    """Rules for MMDetection 3.x, where encoder and decoder left the head's transformer."""
    layer, to = r"(encoder|decoder)\.layers\.(\d+)", "bbox_head.transformer.{0}.layers.{1}"
    return (
        _PREPROCESSOR,
        Rule("self-attention is a layer's first", rf"{layer}\.self_attn\.(.+)",
             to + ".attentions.0.{2}"),
        Rule("cross-attention is its second", rf"{layer}\.cross_attn\.(.+)",
             to + ".attentions.1.{2}"),
        Rule("its network", rf"{layer}\.ffn\.(.+)", to + ".ffns.0.{2}"),
        Rule("its norms", rf"{layer}\.norms\.(.+)", to + ".norms.{2}"),
        Rule("the decoder's norm", r"decoder\.post_norm\.(\w+)",
             "bbox_head.transformer.decoder.post_norm.{0}"),
        Rule("queries are the head's", r"query_embedding\.(\w+)",
             "bbox_head.query_embedding.{0}"),
        *more,
        Rule("names that 2.x has, too", r"((?:backbone|neck|bbox_head)\..*)", "{0}"),
    )


#: What Deformable DETR calls otherwise.
_DEFORMABLE = {"reference_points_fc": "reference_points", "memory_trans_fc": "enc_output",
               "memory_trans_norm": "enc_output_norm", "pos_trans_fc": "pos_trans",
               "pos_trans_norm": "pos_trans_norm"}

#: The layouts by name; the first that fits is taken.
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (
    Layout("mmdet3", "a detector of MMDetection 3.x", (
        _PREPROCESSOR,
        # Transformers within a head have other names there (MaskFormer, Mask2Former).
        Rule("names that 2.x has, too", rf"((?:{_HEADS})\.(?!.*\.(?:self|cross)_attn\.).*)", "{0}"),
    ), (r"data_preprocessor\.",)),
    Layout("mmdet2", "a detector of MMDetection 2.x or 3.x", (
        Rule("names stay", rf"((?:{_HEADS})\..*)", "{0}"),
    ), ("!backbone\\.(body|fpn)",), "module."),
    Layout("swin", "microsoft/Swin-Transformer", (
        *_MS, _merging(r"layers\.(\d+)\.downsample\.(norm|reduction)\.(\w+)", "{0}")),
        (r"layers\.0\.downsample",), facts=_swin_facts(_MS_BLOCK)),
    Layout("timm-swin", "timm's swin_*", (
        *_MS, _merging(r"layers\.(\d+)\.downsample\.(norm|reduction)\.(\w+)", "{0:-1}")),
        (r"layers\.\d+\.blocks", r"!layers\.0\.downsample"), facts=_swin_facts(_MS_BLOCK)),
    Layout("torchvision-swin", "torchvision's swin_*", (
        Rule("the patches' projection", r"features\.0\.0\.(\w+)", "patch_embed.projection.{0}"),
        Rule("the patches' norm", r"features\.0\.2\.(\w+)", "patch_embed.norm.{0}"),
        *_swin(r"features\.(\d+)\.(\d+)", "stages.{0:-1/2}.blocks.{1}", "attn",
               r"attn\.relative_position_bias_table", (r"mlp\.0", r"mlp\.3")),
        _merging(r"features\.(\d+)\.(norm|reduction)\.(\w+)", "{0:-2/2}"),
        Rule(_LAST_NORM.name, r"norm\.(\w+)", "norm{last}.{0}"), _INDEX, _CLASSIFIER),
        (r"features\.1\.0\.attn",),
        facts=lambda keys: {"last": (_swin_facts(r"features\.(\d+)\.\d+\.norm1")(keys)["last"]
                                     - 1) // 2}),
    Layout("transformers-swin", "transformers' Swin", (
        Rule("the patches' projection", r"embeddings\.patch_embeddings\.(projection\.\w+)",
             "patch_embed.{0}"),
        Rule("the patches' norm", r"embeddings\.(norm\.\w+)", "patch_embed.{0}"),
        Rule("the first norm", rf"{_HF_BLOCK}\.layernorm_before\.(\w+)", _STAGE + ".norm1.{2}"),
        Rule("the second norm", rf"{_HF_BLOCK}\.layernorm_after\.(\w+)", _STAGE + ".norm2.{2}"),
        *_HF_QKV,
        Rule("the output projection",
             rf"{_HF_BLOCK}\.attention\.(?:o_proj|output\.dense)\.(\w+)",
             _STAGE + ".attn.w_msa.proj.{2}"),
        *_swin(_HF_BLOCK, _STAGE, "attn",
               r"attention\.(?:self|relative_position_bias)\.relative_position_bias_table",
               (r"(?:mlp\.fc1|intermediate\.dense)", r"(?:mlp\.fc2|output\.dense)"))[2:],
        _merging(r"encoder\.layers\.(\d+)\.downsample\.(norm|reduction)\.(\w+)", "{0}"),
        Rule(_LAST_NORM.name, r"layernorm\.(\w+)", "norm{last}.{0}"), _INDEX, _CLASSIFIER),
        (r"(swin\.)?encoder\.layers\.\d+\.blocks\.\d+\.layernorm_before",), "swin.",
        _swin_facts(_HF_BLOCK)),
    Layout("pvt", "whai362/PVT, version 1 or 2", (
        Rule("position embeddings, without the class token's", r"pos_embed(\d)",
             "layers.{0:-1}.1.0.pos_embed", _without_class),
        Rule("a stage's patches", r"patch_embed(\d)\.proj\.(\w+)",
             "layers.{0:-1}.0.projection.{1}"),
        Rule("their norm", r"patch_embed(\d)\.norm\.(\w+)", "layers.{0:-1}.0.norm.{1}"),
        *_pvt(r"block(\d)\.(\d+)", "{0:-1}", "{1:{first}}", _PVT_NAMES),
        Rule("a stage's norm", r"norm(\d)\.(\w+)", "layers.{0:-1}.2.{1}"),
        Rule("the class token goes", r"cls_token|norm\.\w+", None), _CLASSIFIER),
        (r"patch_embed1\.", r"block1\."), facts=_pvt_facts),
    Layout("timm-pvt_v2", "timm's pvt_v2_*", (
        Rule("the first patches", r"patch_embed\.proj\.(\w+)", "layers.0.0.projection.{0}"),
        Rule("their norm", r"patch_embed\.norm\.(\w+)", "layers.0.0.norm.{0}"),
        Rule("a stage's patches", r"stages\.(\d)\.downsample\.proj\.(\w+)",
             "layers.{0}.0.projection.{1}"),
        Rule("their norm", r"stages\.(\d)\.downsample\.norm\.(\w+)", "layers.{0}.0.norm.{1}"),
        *_pvt(r"stages\.(\d)\.blocks\.(\d+)", "{0}", "{1:{first}}", _PVT_NAMES),
        Rule("a stage's norm", r"stages\.(\d)\.norm\.(\w+)", "layers.{0}.2.{1}"), _CLASSIFIER),
        (r"stages\.0\.blocks\.0\.attn\.q\.",), facts=_pvt_facts),
    Layout("transformers-pvt", "transformers' PVT", (
        Rule("position embeddings, without the class token's",
             r"encoder\.patch_embeddings\.(\d)\.position_embeddings", "layers.{0}.1.0.pos_embed",
             _without_class),
        Rule("a stage's patches", r"encoder\.patch_embeddings\.(\d)\.(projection\.\w+)",
             "layers.{0}.0.{1}"),
        Rule("their norm", r"encoder\.patch_embeddings\.(\d)\.layer_norm\.(\w+)",
             "layers.{0}.0.norm.{1}"),
        *_pvt(r"encoder\.block\.(\d)\.(\d+)", "{0}", "{1:{first}}", _HF_PVT_NAMES),
        Rule("the class token goes", r".*\.cls_token|encoder\.layer_norm\.\w+", None),
        _CLASSIFIER), (r"(pvt\.)?encoder\.block\.",), "pvt.", _pvt_facts),
    Layout("transformers-pvt_v2", "transformers' PVTv2", (
        Rule("a stage's patches", r"encoder\.layers\.(\d)\.patch_embedding\.proj\.(\w+)",
             "layers.{0}.0.projection.{1}"),
        Rule("their norm", r"encoder\.layers\.(\d)\.patch_embedding\.layer_norm\.(\w+)",
             "layers.{0}.0.norm.{1}"),
        *_pvt(r"encoder\.layers\.(\d)\.blocks\.(\d+)", "{0}", "{1:{first}}", _HF_PVT_NAMES),
        Rule("a stage's norm", r"encoder\.layers\.(\d)\.layer_norm\.(\w+)", "layers.{0}.2.{1}"),
        _CLASSIFIER), (r"(pvt_v2\.)?encoder\.layers\.0\.patch_embedding\.",), "pvt_v2.",
        _pvt_facts),
    Layout("resnet", "torchvision's and timm's resnet*, resnext*", (
        Rule("names stay", rf"({_RESNET})", "{0}"), _CLASSIFIER), (r"conv1\.", r"layer1\.")),
    Layout("torchvision-detector", "torchvision's detectors with a ResNet and FPN", (
        Rule("the backbone", rf"backbone\.body\.({_RESNET})", "backbone.{0}"),
        Rule("the neck's lateral convolutions",
             r"backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?(\w+)",
             "neck.lateral_convs.{0}.conv.{1}"),
        Rule("the neck's other convolutions",
             r"backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?(\w+)", "neck.fpn_convs.{0}.conv.{1}"),
        Rule("heads go: their anchors and the order of their classes are others",
             r"(rpn|roi_heads|head)\..*", None),
    ), (r"backbone\.body\.",)),
    Layout("mmdet3-detr", "DETR of MMDetection 3.x", _detr(
        Rule("the neck projects in the head", r"neck\.convs\.0\.conv\.(\w+)",
             "bbox_head.input_proj.{0}")),
        (r"encoder\.layers", r"bbox_head\.fc_cls", "!level_embed")),
    Layout("mmdet3-deformable_detr", "Deformable DETR of MMDetection 3.x", _detr(
        Rule("embeddings of levels", "level_embed", "bbox_head.transformer.level_embeds"),
        *(Rule("layers around the decoder", rf"{old}\.(\w+)", f"bbox_head.transformer.{new}.{{0}}")
          for old, new in _DEFORMABLE.items())), (r"encoder\.layers", "level_embed")),
)}


def _misfits(layout: Layout, keys: list[str]) -> list[str]:
    return [key for bare, key in layout.bare(keys).items() if layout.rule_of(bare) is None]


def layout_of(keys: list[str]) -> Layout:
    """The layout that a state dict's keys are of.

    Raises:
        ValueError: none takes all of them; names the nearest and the first keys that do not fit.
    """
    if not keys:
        raise ValueError("the state dict is empty")
    missing = {}
    for layout in LAYOUTS.values():
        missing[layout.name] = _misfits(layout, keys)
        if not missing[layout.name] and layout.marked(keys):
            return layout
    near = min(missing, key=lambda name: (len(missing[name]), not LAYOUTS[name].marked(keys)))
    odd = missing[near]
    why = f"{len(odd)} of its {len(keys)} keys do not fit, the first are {', '.join(odd[:3])}" \
        if odd else "it lacks " + ", ".join(m for m in LAYOUTS[near].marks)
    raise ValueError(f"no known layout; the nearest is {near} ({LAYOUTS[near].title}), but {why}. "
                     f"Known are {', '.join(LAYOUTS)}")


def convert(state_dict: Mapping[str, Tensor], layout: str | None = None, prefix: str = ""
            ) -> Converted:
    """Rename and reorder a state dict for MMDetection 2.x.

    Args:
        state_dict: of one of :data:`LAYOUTS`.
        layout: its name; found out by default.
        prefix: put in front of the new keys, such as ``'backbone.'``.

    Returns:
        The new state dict and what was done.

    Raises:
        ValueError: the layout is unknown, or a key is not of it.
    """
    keys = list(state_dict)
    if layout is None:
        found = layout_of(keys)
    elif layout in LAYOUTS:
        found = LAYOUTS[layout]
        if odd := _misfits(found, keys):
            raise ValueError(f"{len(odd)} of {len(keys)} keys are not of the layout {layout}; the "
                             f"first are {', '.join(odd[:3])}")
    else:
        raise ValueError(f"unknown layout {layout!r}, known are {', '.join(LAYOUTS)}")
    facts = found.facts(list(found.bare(keys)))
    parts: dict[str, dict[int, Tensor]] = {}
    applied: Counter[str] = Counter()
    for bare, key in found.bare(keys).items():
        taken = found.rule_of(bare)
        assert taken is not None
        rule, match = taken
        applied[rule.name] += 1
        if (new := rule.key(match, facts)) is not None:
            value = state_dict[key]
            parts.setdefault(prefix + new, {})[rule.part] = \
                value if rule.value is None else rule.value(value)
    out = {key: next(iter(some.values())) if len(some) == 1 else
           torch.cat([some[i] for i in sorted(some)]) for key, some in parts.items()}
    return Converted(out, found, dict(applied))
