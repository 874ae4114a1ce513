"""PVT's attention, against nn.MultiheadAttention's form and torch's fused attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fastdet.kernels.spatial_reduction_attention import spatial_reduction_attention

from ..entry import Entry, Inputs, Provider, Work


def spatial_reduction_attention_eager(q: Tensor, kv: Tensor, num_heads: int, scale: float
                                      ) -> tuple[Tensor, Tensor]:
    """MMDetection's form: scores in memory, and the averaged weights that nobody reads.

    Also an independent form for the tests.

    Returns:
        [B, N_q, C], and the weights averaged over heads, [B, N_q, N_k].
    """
    b, n, _ = q.shape
    key, value = kv.chunk(2, dim=-1)
    query, key, value = (t.reshape(b, t.shape[1], num_heads, -1).transpose(1, 2).flatten(0, 1)
                         for t in (q * scale, key, value))
    weights = torch.bmm(query, key.transpose(1, 2)).softmax(-1)
    out = torch.bmm(weights, value).view(b, num_heads, n, -1).transpose(1, 2).flatten(2)
    return out, weights.view(b, num_heads, n, -1).mean(1)


def spatial_reduction_attention_sdpa(q: Tensor, kv: Tensor, num_heads: int) -> Tensor:
    """The same through ``scaled_dot_product_attention``, which chooses its own backend."""
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, *kv.chunk(2, -1)))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _make(*, dtype: torch.dtype, device: torch.device, B: int, queries: int, keys: int,
          heads: int, d: int, dropout: float = 0.0) -> Inputs:
    return {"q": torch.randn(B, queries, heads * d, device=device, dtype=dtype).requires_grad_(),
            "kv": torch.randn(B, keys, 2 * heads * d, device=device, dtype=dtype).requires_grad_(),
            "heads": heads, "dropout": dropout}


def _eager(x: Inputs) -> Tensor:
    d = x["q"].shape[-1] // x["heads"]
    return spatial_reduction_attention_eager(x["q"], x["kv"], x["heads"], d ** -0.5)[0]


def _run(function: Callable[..., Tensor]) -> Callable[[Inputs], Tensor]:
    return lambda x: function(x["q"], x["kv"], x["heads"])


def _work(*, dtype: torch.dtype, backward: bool, B: int, queries: int, keys: int, heads: int,
          d: int) -> Work:
    # Forward: q, k, v, output; two products. Backward: those inputs, the output's gradient and
    # three gradients; five products.
    elements = B * heads * d * (2 * (queries + keys) + backward * (3 * queries + 4 * keys))
    return Work(bytes=elements * dtype.itemsize,
                flops=(2 + 5 * backward) * 2 * B * heads * queries * keys * d)


ENTRY = Entry(
    name="spatial_reduction_attention",
    shapes={  # PVT-Small on two images of 800 x 1344
        "pvt_s1_b2": {"B": 2, "queries": 67200, "keys": 1050, "heads": 1, "d": 64},
        "pvt_s2_b2": {"B": 2, "queries": 16800, "keys": 1050, "heads": 2, "d": 64},
        "pvt_s3_b2": {"B": 2, "queries": 4200, "keys": 1050, "heads": 5, "d": 64},
        "pvt_s4_b2": {"B": 2, "queries": 1050, "keys": 1050, "heads": 8, "d": 64},
    },
    cpu={"pvt_s3_b1": {"B": 1, "queries": 4200, "keys": 1050, "heads": 5, "d": 64}},
    tiny={"B": 1, "queries": 37, "keys": 19, "heads": 2, "d": 16},
    make=_make,
    providers={
        "eager": Provider(_eager),
        "compile": Provider(_eager, compiled=True),
        "sdpa": Provider(_run(spatial_reduction_attention_sdpa)),
        "fastdet": Provider(lambda x: spatial_reduction_attention(
            x["q"], x["kv"], x["heads"], dropout_p=x["dropout"])),
    },
    work=_work,
    kernels=("spatial_reduction_attention_",),
    compiled={
        "dropout": {"B": 2, "queries": 1050, "keys": 1050, "heads": 8, "d": 64, "dropout": 0.1},
        "heads_of_128": {"B": 2, "queries": 1050, "keys": 1050, "heads": 4, "d": 128},
    },
    ledger=("pvt_s4_b2/fp32", "pvt_s4_b2/fp32+tf32", "pvt_s4_b2/fp16", "heads_of_128/fp32",
            "heads_of_128/bf16", "dropout/bf16", "pvt_s4_b2/bf16"),
    exceptions={("spatial_reduction_attention_bwd_dq_kernel", "spills"):
                "heads of 128 on sm_80: ten accesses, other tiles have 57 to 304"},
)
