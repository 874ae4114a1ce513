"""Spatial-reduction attention in plain torch: the definition, the CPU path and the oracle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def spatial_reduction_attention_reference(q: Tensor, kv: Tensor, num_heads: int, scale: float,
                                          dropout_p: float = 0.0) -> Tensor:
    """softmax(scale q k^T) v per head.

    torch's fused attention never holds the [B, heads, N_q, N_k] scores, so memory is bounded by
    the inputs; with dropout torch has no fused form on a CPU, and the scores are made.

    Args:
        q: [B, N_q, C].
        kv: [B, N_k, 2C], keys and values side by side.
        num_heads: heads, each of C / num_heads channels.
        scale: of the products.
        dropout_p: probability with which an attention weight is dropped.

    Returns:
        [B, N_q, C].
    """
    b, n, c = q.shape
    key, value = kv.view(b, kv.shape[1], 2, num_heads, -1).permute(2, 0, 3, 1, 4)
    query = q.view(b, n, num_heads, -1).transpose(1, 2)
    out = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p, scale=scale)
    return out.transpose(1, 2).reshape(b, n, c)


def spatial_reduction_attention_eager(q: Tensor, kv: Tensor, num_heads: int, scale: float
                                      ) -> tuple[Tensor, Tensor]:
    """MMDetection's form: scores in memory, and the averaged weights that nobody reads.

    The peer of the benchmarks and an independent form for the tests.

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
