"""Spatial-reduction attention by torch's fused attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..dispatch import tracing


def spatial_reduction_attention_cpu(q: Tensor, kv: Tensor, num_heads: int, scale: float,
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
    # On a CPU torch's form makes finite numbers of a query that is not; the definition does not.
    if query.device.type != "cpu" or tracing() or not query.detach().sum().isfinite():
        out = out + (0 * query).sum(-1, keepdim=True)
    return out.transpose(1, 2).reshape(b, n, c)
