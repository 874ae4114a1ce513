"""Dynamic convolution in plain torch: the definition, the CPU path and the oracle of the tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def two_products(x: Tensor, params: Tensor, feat: int, out: int,
                 after_in: Callable[[Tensor], Tensor],
                 after_out: Callable[[Tensor], Tensor]) -> Tensor:
    """after_out(after_in(x^T p_in) p_out) for each proposal, with any functions in between.

    The two weights are one split of ``params``, so that backward writes one gradient for them;
    the gradients of two slices would each be filled up with zeros and then added.

    Args:
        x: [N, in, S].
        params: [N, in * feat + feat * out], p_in [in, feat] before p_out [feat, out].
        feat: inner channels.
        out: channels of the result.
        after_in: applied to [N, S, feat].
        after_out: applied to [N, S, out].

    Returns:
        [N, S, out].
    """
    n, channels, _ = x.shape
    p_in, p_out = params.split([channels * feat, feat * out], dim=1)
    hidden = after_in(torch.bmm(x.transpose(1, 2), p_in.view(n, channels, feat)))
    return after_out(torch.bmm(hidden, p_out.view(n, feat, out)))


def dynamic_conv_reference(x: Tensor, params: Tensor, norm_in_weight: Tensor, norm_in_bias: Tensor,
                           norm_out_weight: Tensor, norm_out_bias: Tensor, eps_in: float,
                           eps_out: float, out_dtype: torch.dtype) -> Tensor:
    """relu(norm_out(relu(norm_in(x^T p_in)) p_out)), products in the type of ``params``.

    Args:
        x: [N, in, S].
        params: [N, in * feat + feat * out].
        norm_in_weight: [feat]; as its bias.
        norm_in_bias: [feat].
        norm_out_weight: [out]; as its bias.
        norm_out_bias: [out].
        eps_in: of the first norm.
        eps_out: of the second norm.
        out_dtype: type of the result.

    Returns:
        [N, S, out].
    """
    def norm_relu(t: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return F.layer_norm(t.to(weight.dtype), weight.shape, weight, bias, eps).relu_()

    return two_products(
        x.to(params.dtype), params, norm_in_weight.numel(), norm_out_weight.numel(),
        lambda t: norm_relu(t, norm_in_weight, norm_in_bias, eps_in).to(params.dtype),
        lambda t: norm_relu(t, norm_out_weight, norm_out_bias, eps_out).to(out_dtype))
