"""Spatial-reduction attention as it is defined (PVT, arXiv 2102.12122): the oracle of the tests."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def spatial_reduction_attention_reference(q: Tensor, kv: Tensor, num_heads: int, scale: float,
                                          dropout_p: float = 0.0) -> Tensor:
    """dropout(softmax(scale q k^T)) v per head, the scores in memory.

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
    query = q.view(b, n, num_heads, -1).transpose(1, 2)
    key, value = kv.view(b, kv.shape[1], 2, num_heads, -1).permute(2, 0, 3, 1, 4)
    weights = (scale * query @ key.mT).softmax(-1)
    return (F.dropout(weights, dropout_p) @ value).transpose(1, 2).reshape(b, n, c)
