"""Fused parts of transformer blocks: what they compute, and that whoever looks still sees."""

import pytest
import torch
from torch import nn
from torch.nn.modules import module as global_hooks

from fastdet.cnn.bricks.drop import DropPath
from fastdet.cnn.bricks.fused import add_norm, bare, casts
from fastdet.cnn.bricks.transformer import FFN
from fastdet.kernels import dispatch
from fastdet.models.backbones.pvt import PVTEncoderLayer
from fastdet.models.backbones.swin import SwinBlock


class Seen:
    """The operators that were called inside a ``with`` block."""

    def __enter__(self):
        self.names = []
        self.block = dispatch.observe(lambda name, *_: self.names.append(name))
        self.block.__enter__()
        return self.names

    def __exit__(self, *error):
        self.block.__exit__(*error)


def watch(module):
    calls = []
    module.register_forward_hook(lambda m, args, out: calls.append((args[0].dtype, out.dtype)))
    return calls


def test_bare():
    layer = nn.Linear(2, 2)
    assert bare(layer)
    assert casts(layer)
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook,
                     layer.register_full_backward_hook, layer.register_full_backward_pre_hook):
        handle = register(lambda *_: None)
        assert not bare(nn.ReLU(), layer)
        handle.remove()
    handle = global_hooks.register_module_forward_hook(lambda *_: None)
    assert not bare(layer)
    handle.remove()
    layer.forward = lambda x: x
    assert not casts(layer)
    assert not casts(nn.LayerNorm(2))


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.LayerNorm(4, elementwise_affine=False),
                                  nn.BatchNorm1d(3)], ids=str)
def test_add_norm_is_sum_and_norm(norm):
    x, branch = torch.randn(2, 2, 3, 4)
    total, out = add_norm(norm, x, branch, nn.Dropout(0.5).eval())
    assert torch.equal(total, x + branch)
    torch.testing.assert_close(out, norm(total))
    alone, out = add_norm(norm, x)
    assert alone is x
    torch.testing.assert_close(out, norm(x))


def test_a_scale_is_drawn_as_a_drop_path():
    x, branch = torch.randn(2, 8, 3, 4)
    drop, norm = DropPath(0.5).train(), nn.LayerNorm(4)
    torch.manual_seed(0)
    want = x + drop(branch)
    torch.manual_seed(0)
    total, _ = add_norm(norm, x, branch, drop)
    torch.testing.assert_close(total, want)
    calls = watch(drop)
    torch.manual_seed(0)
    torch.testing.assert_close(add_norm(norm, x, branch, drop)[0], want)
    assert len(calls) == 1


def blocks():
    swin = SwinBlock(32, 2, 64, 3, shift=True, drop_path_rate=0.5)
    pvt = PVTEncoderLayer(32, 2, 64, drop_path_rate=0.5, sr_ratio=2)
    conv = PVTEncoderLayer(32, 1, 64, use_conv_ffn=True)
    return {"swin": swin, "pvt": pvt, "pvt-conv": conv}


def parts(block):
    """What of a block a fused pass would step over; a MixFFN walks over its layers itself."""
    own = ("attn.w_msa", "attn.attn", "attn.proj_drop")
    return {name: module for name, module in block.named_modules()
            if name and not name.startswith(own) and not isinstance(module, nn.Conv2d)
            and (name != "ffn.layers" or isinstance(block, SwinBlock))}


def run(block, x):
    torch.manual_seed(3)
    leaf = x.clone().requires_grad_()
    out = block(leaf, (5, 4))
    grads = torch.autograd.grad(out.float().square().sum(), [leaf, *block.parameters()])
    return out, grads


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["swin", "pvt", "pvt-conv"])
def test_a_block_with_hooks_runs_part_by_part(name, autocast):
    """Same numbers, and every hook is called once, with the types that it would see anywhere."""
    torch.manual_seed(0)
    block = blocks()[name].train()
    x = torch.randn(3, 20, 32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with Seen() as fused:
            out, grads = run(block, x)
        seen = {part: watch(module) for part, module in parts(block).items()}
        with Seen() as plain:
            want, want_grads = run(block, x)
    assert fused.count("add_layer_norm") == 2
    assert fused.count("gelu_linear") == autocast
    assert not {"add_layer_norm", "gelu_linear"} & set(plain)
    for part, calls in seen.items():
        assert calls, part
        if part in ("attn", "ffn"):  # the norm's own type, not what autocast makes of it later
            assert calls[0][0] == torch.float32
    torch.testing.assert_close(out, want)
    for mine, theirs in zip(grads, want_grads):
        # Two readers of one half-typed norm add their gradients in it: a rounding of bfloat16.
        atol = (2**-8 if autocast else 1e-5) * float(theirs.abs().max()) + 1e-6
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("change", ["hook", "replaced", "dropout", "relu"])
def test_ffn_is_fused_only_where_it_is_the_plain_one(change):
    ffn = FFN(16, 32, act_cfg={"type": "ReLU" if change == "relu" else "GELU"},
              ffn_drop=0.1 if change == "dropout" else 0.0).train()
    if change == "hook":
        calls = watch(ffn.layers[0][1])
    if change == "replaced":
        ffn.layers[1] = nn.Sequential(nn.Linear(32, 16))
    with torch.autocast("cpu", torch.bfloat16), Seen() as seen:
        ffn(torch.randn(2, 3, 16))
    assert seen == []
    if change == "hook":
        assert len(calls) == 1
    ffn = FFN(16, 32, act_cfg={"type": "GELU"}).train()
    with torch.autocast("cpu", torch.bfloat16), Seen() as seen:
        ffn(torch.randn(2, 3, 16))
    assert seen == ["gelu_linear"]


def test_a_fused_block_compiles_whole():
    block = blocks()["swin"].eval()
    x = torch.randn(1, 20, 32)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x, (5, 4)), block(x, (5, 4)))


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["swin", "pvt", "pvt-conv"])
def test_kernels_of_a_block(kernel_device, name):
    """A block on its kernels under autocast, forward and backward, against its parts one by one."""
    torch.manual_seed(0)
    block = blocks()[name].to(kernel_device).train()
    x = torch.randn(2, 20, 32, device=kernel_device)
    with torch.autocast(kernel_device.type, torch.bfloat16):
        with Seen() as seen:
            out, grads = run(block, x)
        if name == "swin":
            block.with_cp = True
            again, again_grads = run(block, x)
            assert torch.equal(again, out)
            assert all(map(torch.equal, again_grads, grads))
        for part in parts(block).values():
            watch(part)
        want, want_grads = run(block, x)
    assert {"add_layer_norm", "gelu_linear"} <= set(seen)
    torch.testing.assert_close(out, want, rtol=2e-2, atol=2e-2)
    for mine, theirs in zip(grads, want_grads):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(mine, theirs, rtol=4e-2, atol=2e-2 * scale + 1e-3)
