"""Triton kernels of the focal losses, forward and gradient in one pass.

x, out, grad and dx are [N, C], contiguous; target is [N, C] or labels [N]. All arithmetic is fp32.
"""

import triton
import triton.language as tl


@triton.jit
def _power(base, exponent, WHOLE: tl.constexpr):
    """base^exponent and its derivative; WHOLE is the exponent if it is 0 to 4, else -1."""
    if WHOLE == 0:
        power = base * 0.0 + 1.0
        slope = base * 0.0
    elif WHOLE == 1:
        power = base
        slope = base * 0.0 + 1.0
    elif WHOLE == 2:
        power = base * base
        slope = 2.0 * base
    elif WHOLE == 3:
        power = base * base * base
        slope = 3.0 * base * base
    elif WHOLE == 4:
        power = base * base * base * base
        slope = 4.0 * base * base * base
    else:
        log = tl.log2(base)
        power = tl.exp2(exponent * log)
        slope = exponent * tl.exp2((exponent - 1.0) * log)
    return power, slope


@triton.jit
def _logistic(x):
    """sigmoid(x), 1 - sigmoid(x) and -log(sigmoid(x)), each to full precision at both ends.

    log(1 + z) is 2 atanh(z / (2 + z)); for z in [0, 1] eight terms of its series are enough.
    """
    z = tl.exp(-tl.abs(x))
    w = z / (2.0 + z)
    v = w * w
    series = 1.0 / 15.0 * v + 1.0 / 13.0
    series = series * v + 1.0 / 11.0
    series = series * v + 1.0 / 9.0
    series = series * v + 1.0 / 7.0
    series = series * v + 1.0 / 5.0
    series = series * v + 1.0 / 3.0
    series = series * v + 1.0
    near = 1.0 / (1.0 + z)
    far = z * near
    s = tl.where(x >= 0, near, far)
    rest = tl.where(x >= 0, far, near)
    negative = tl.where(x < 0, -x, 0.0)
    return s, rest, negative + 2.0 * w * series


@triton.jit
def _element(x, t, first, second, KIND: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """The loss of one element and its derivative; the formulas are in reference.py."""
    if KIND == "gaussian":
        y = 1.0 - x
        up, dup = _power(x, second, SECOND)
        down, ddown = _power(y, second, SECOND)
        far, _ = _power(1.0 - t, first, FIRST)
        hit = tl.where(t == 1.0, 1.0, 0.0)
        u = x + 1e-12
        v = y + 1e-12
        log_u = tl.log(u)
        log_v = tl.log(v)
        loss = -(log_u * down * hit + log_v * up * far)
        slope = (log_u * ddown * u - down) / u * hit - (log_v * dup * v - up) / v * far
    else:
        s, rest, minus_log = _logistic(x)
        bce = (1.0 - t) * x + minus_log
        if KIND == "sigmoid":
            focus, dfocus = _power(rest * t + s * (1.0 - t), first, FIRST)
            balance = second * t + (1.0 - second) * (1.0 - t)
            focus = focus * balance
            dfocus = dfocus * balance * (1.0 - 2.0 * t)
        else:
            delta = s - t
            focus, dfocus = _power(tl.abs(delta), first, FIRST)
            dfocus = tl.where(delta < 0, -dfocus, tl.where(delta == 0, 0.0, dfocus))
            if KIND != "quality":
                here = t > 0
                focus = tl.where(here, t if KIND == "varifocal" else 1.0, second * focus)
                dfocus = tl.where(here, 0.0, second * dfocus)
        loss = focus * bce
        slope = dfocus * s * rest * bce + focus * (s - t)
    return loss, slope


@triton.jit(do_not_specialize=["total", "first", "second"])
def focal_losses_kernel(x_ptr, target_ptr, values_ptr, weight_ptr, grad_ptr, out_ptr, dx_ptr,
                        sums_ptr, total, first, second, C: tl.constexpr, KIND: tl.constexpr,
                        FIRST: tl.constexpr, SECOND: tl.constexpr, LABELS: tl.constexpr,
                        HAS_VALUES: tl.constexpr, WEIGHT: tl.constexpr, HAS_GRAD: tl.constexpr,
                        HAS_OUT: tl.constexpr, HAS_DX: tl.constexpr, HAS_SUMS: tl.constexpr,
                        BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """Weighted losses, or their sum, and derivatives (times grad, if given) of N C elements.

    values, if given, is [N], the target at the label. weight is [N] if WEIGHT is "row", [N, C] if
    it is "element". sums is fp32, a cell a program, so that their sum has one order.
    Grid: (cdiv(N C, BLOCK STEPS),); one program owns that many elements in a row.
    """
    pid = tl.program_id(0).to(tl.int64)
    begin = pid * (BLOCK * STEPS)
    x_ptr += begin
    first_row = begin // C
    column = (begin - first_row * C).to(tl.int32)
    left = tl.minimum(total - begin, BLOCK * STEPS).to(tl.int32)
    acc = tl.zeros([BLOCK], dtype=tl.float32)
    for step in range(STEPS):
        offs = step * BLOCK + tl.arange(0, BLOCK)
        mask = offs < left
        row = (column + offs) // C
        x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        if LABELS:
            label = tl.load(target_ptr + first_row + row, mask=mask, other=-1)
            t = tl.where(label == column + offs - row * C, 1.0, 0.0)
            if HAS_VALUES:
                value = tl.load(values_ptr + first_row + row, mask=mask, other=0.0)
                t = tl.where(t > 0, value.to(tl.float32), 0.0)
        else:
            t = tl.load(target_ptr + begin + offs, mask=mask, other=0.0).to(tl.float32)
        loss, slope = _element(x, t, first, second, KIND, FIRST, SECOND)
        if WEIGHT == "row":
            weight = tl.load(weight_ptr + first_row + row, mask=mask, other=0.0).to(tl.float32)
            loss *= weight
            slope *= weight
        elif WEIGHT == "element":
            weight = tl.load(weight_ptr + begin + offs, mask=mask, other=0.0).to(tl.float32)
            loss *= weight
            slope *= weight
        if HAS_GRAD:
            slope *= tl.load(grad_ptr + begin + offs, mask=mask, other=0.0).to(tl.float32)
        if HAS_OUT:
            tl.store(out_ptr + begin + offs, loss.to(out_ptr.dtype.element_ty), mask=mask)
        if HAS_DX:
            tl.store(dx_ptr + begin + offs, slope.to(dx_ptr.dtype.element_ty), mask=mask)
        if HAS_SUMS:
            acc += tl.where(mask, loss, 0.0)
    if HAS_SUMS:
        tl.store(sums_ptr + pid, tl.sum(acc))


@triton.jit
def softmax_focal_kernel(x_ptr, labels_ptr, weight_ptr, grad_ptr, out_ptr, N, C, gamma, alpha,
                         WHOLE: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_GRAD: tl.constexpr,
                         BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """-alpha (1 - p)^gamma log(p) of every row's label, out [N]; with grad [N], dx, out [N, C].

    Grid: (cdiv(N, BLOCK_N),); one program owns BLOCK_N rows. weight is [C], by label.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    cols = tl.arange(0, BLOCK_C)
    mask_n = rows < N
    mask = mask_n[:, None] & (cols < C)[None, :]
    at = rows[:, None] * C + cols[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=float("-inf")).to(tl.float32)
    x = tl.where(mask_n[:, None], x, 0.0)
    label = tl.load(labels_ptr + rows, mask=mask_n, other=-1)
    here = cols[None, :] == label[:, None]
    x -= tl.max(x, axis=1)[:, None]
    e = tl.exp(x)
    total = tl.sum(e, axis=1)
    log_p = tl.sum(tl.where(here, x, 0.0), axis=1) - tl.log(total)
    p = e / total[:, None]
    rest = tl.sum(tl.where(here, 0.0, p), axis=1)
    rest = tl.where(rest > 0.5, 1.0 - tl.exp(log_p), rest)  # the better of two ways to 1 - p
    power, slope = _power(rest, gamma, WHOLE)
    factor = tl.where(label >= 0, alpha, 0.0)
    if HAS_WEIGHT:
        factor *= tl.load(weight_ptr + label, mask=(label >= 0) & (label < C),
                          other=0.0).to(tl.float32)
    if HAS_GRAD:
        grad = tl.load(grad_ptr + rows, mask=mask_n, other=0.0).to(tl.float32)
        scale = grad * factor * (slope * tl.exp(log_p) * log_p - power)
        dx = scale[:, None] * (tl.where(here, 1.0, 0.0) - p)
        tl.store(out_ptr + at, dx.to(out_ptr.dtype.element_ty), mask=mask)
    else:
        loss = tl.where(label >= 0, -factor * power * log_p, 0.0)
        tl.store(out_ptr + rows, loss.to(out_ptr.dtype.element_ty), mask=mask_n)
