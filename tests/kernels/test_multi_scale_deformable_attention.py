"""Multi-scale deformable attention: the reference by definition, the kernels against fp64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastdet
from benchmarks.operators.multi_scale_deformable_attention import (
    multi_scale_deformable_attention_eager,
)
from fastdet.kernels.multi_scale_deformable_attention import (
    level_table,
    multi_scale_deformable_attention,
)
from fastdet.kernels.multi_scale_deformable_attention import op as op_module
from fastdet.kernels.multi_scale_deformable_attention.reference import (
    multi_scale_deformable_attention_reference,
)
from fastdet.testing import assert_accurate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SIZES = [(5, 4), (3, 2)]


def inputs(b=2, q=5, heads=2, d=3, sizes=SIZES, p=2, dtype=torch.float64, device="cpu"):
    """Value, places (some of them outside) and weights; leaves."""
    k = sum(h * w for h, w in sizes)
    value = torch.randn(b, k, heads, d, dtype=torch.float64)
    places = torch.rand(b, q, heads, len(sizes), p, 2, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.randn(b, q, heads, len(sizes) * p, dtype=torch.float64).softmax(-1)
    weights = weights.view(b, q, heads, len(sizes), p)
    return [t.to(device, dtype).requires_grad_() for t in (value, places, weights)]


def attend(value, places, weights, sizes=SIZES):
    return multi_scale_deformable_attention(value, sizes, None, places, weights)


def run(tensors, grad, sizes=SIZES, function=attend):
    out = function(*tensors, sizes)
    return (out, *torch.autograd.grad(out, tensors, grad))


def define(value, places, weights, sizes):
    return multi_scale_deformable_attention_reference(
        value, *level_table(sizes, value.device), places, weights)


def naive(value, places, weights, sizes):
    """The sum as it is written, one number at a time."""
    b, _, heads, d = value.shape
    out = torch.zeros(b, places.shape[1], heads, d, dtype=value.dtype)
    start = 0
    for level, (h, w) in enumerate(sizes):
        for at in torch.cartesian_prod(*map(torch.arange, (*out.shape[:3], places.shape[4]))):
            i, q, head, point = at.tolist()
            x, y = places[i, q, head, level, point] * places.new_tensor([w, h]) - 0.5
            for row in range(h):
                for column in range(w):
                    share = (1 - (x - column).abs()).clamp(0) * (1 - (y - row).abs()).clamp(0)
                    pixel = value[i, start + row * w + column, head]
                    out[i, q, head] += weights[i, q, head, level, point] * share * pixel
        start += h * w
    return out.flatten(2)


# ------------------------------------------------------------------ the reference
def test_reference_is_the_definition():
    tensors = inputs()
    want = naive(*(t.detach() for t in tensors), SIZES)
    torch.testing.assert_close(define(*tensors, SIZES), want)


def test_the_cpu_path_is_the_definition():
    tensors = inputs(q=7, p=3)
    grad = torch.randn(2, 7, 6, dtype=torch.float64)
    for got, want in zip(run(tensors, grad), run(tensors, grad, function=define)):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("put", [math.nan, math.inf])
@pytest.mark.parametrize(("which", "at"), [
    (0, (1, 3, 1, 2)), (1, (1, 4, 1, 1, 2, 0)), (2, (1, 4, 1, 1, 2)), (2, (0, 2, 0, 0, 1)),
    (3, (1, 4, 3))])
def test_what_is_not_finite_shows_on_a_cpu(which, at, put):
    """In value, places, weights and the gradient, where the definition has it; query 4 of image 1
    looks outside."""
    tensors = [t.detach() for t in inputs(q=7, p=3)]
    tensors.append(torch.randn(2, 7, 6, dtype=torch.float64))
    tensors[1][1, 4] = 3.0
    tensors[which][at] = put
    *leaves, grad = tensors
    leaves = [t.requires_grad_() for t in leaves]
    for got, want in zip(run(leaves, grad), run(leaves, grad, function=define)):
        assert torch.equal(got.isfinite(), want.isfinite())


def test_reference_is_grid_sample():
    sizes = [(7, 5), (4, 3), (1, 2)]
    tensors = inputs(q=11, sizes=sizes, p=3)
    grad = torch.randn(2, 11, 6, dtype=torch.float64)
    theirs = run(tensors, grad, sizes,
                 lambda v, p, w, s: multi_scale_deformable_attention_eager(v, s, p, w))
    for mine, other in zip(run(tensors, grad, sizes), theirs):
        torch.testing.assert_close(mine, other)


def test_reference_gradcheck():
    assert torch.autograd.gradcheck(attend, inputs(b=1, q=3))


def pixels_of(sizes, heads):
    """Centres of all pixels of all levels, each on its own level with weight one."""
    k, levels = sum(h * w for h, w in sizes), len(sizes)
    places, weights = torch.full((k, levels, 2), 0.5), torch.zeros(k, levels)
    i = 0
    for level, (h, w) in enumerate(sizes):
        for y in range(h):
            for x in range(w):
                places[i, level] = torch.tensor([(x + 0.5) / w, (y + 0.5) / h])
                weights[i, level] = 1
                i += 1
    shape = (1, k, heads, levels, 1)
    return (places.view(1, k, 1, levels, 1, 2).expand(*shape, 2).double(),
            weights.view(1, k, 1, levels, 1).expand(shape).double())


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3))
def test_weight_one_at_the_centre_is_that_pixel(sizes):
    """Heights and widths that are powers of two and not: centres within rounding."""
    value = torch.randn(1, sum(h * w for h, w in sizes), 2, 3, dtype=torch.float64)
    places, weights = pixels_of(sizes, 2)
    torch.testing.assert_close(attend(value, places, weights, sizes), value.flatten(2),
                               atol=1e-6, rtol=1e-6)


def test_outside_is_zero_and_has_no_gradient():
    value, _, weights = inputs(b=1, q=4, heads=1, sizes=[(4, 4)], p=1)
    # a pixel or more outside; exactly one pixel; nowhere
    at = [[-0.2, 0.5], [0.5, 1.3], [-0.125, 1.125], [math.nan, math.inf]]
    places = torch.tensor(at, dtype=torch.float64).view(1, 4, 1, 1, 1, 2).requires_grad_()
    out, *grads = run((value, places, weights), torch.ones(1, 4, 3, dtype=torch.float64), [(4, 4)])
    assert out.eq(0).all()
    assert all(grad.eq(0).all() for grad in grads)


def test_half_outside():
    """At the border of the map, half of the sample is zeros."""
    value = torch.ones(1, 4, 1, 1)
    places = torch.tensor([0.0, 0.5]).view(1, 1, 1, 1, 1, 2)
    assert attend(value, places, torch.ones(1, 1, 1, 1, 1), [(2, 2)]).item() == 0.5


@given(st.permutations(range(5)))
def test_queries_are_apart(order):
    value, places, weights = inputs()
    torch.testing.assert_close(attend(value, places[:, order], weights[:, order]),
                               attend(value, places, weights)[:, order])


def test_forms_of_the_sizes():
    value, places, weights = inputs()
    want = attend(value, places, weights)
    sizes, starts = level_table(SIZES, torch.device("cpu"))
    assert sizes.tolist() == [[5, 4], [3, 2]]
    assert starts.tolist() == [0, 20]
    for form in ((sizes, starts), (sizes, None), (sizes.int(), starts.int()), (SIZES, [0, 20])):
        assert torch.equal(
            multi_scale_deformable_attention(value, *form, places, weights), want)
    # levels may lie in any order
    turned = torch.cat([value[:, 20:], value[:, :20]], 1)
    assert torch.equal(
        multi_scale_deformable_attention(turned, SIZES, [6, 0], places, weights), want)


@pytest.mark.parametrize(("change", "text"), [
    (dict(value=torch.zeros(2, 26, 6)), r"value must be \[B, K, heads, d\]"),
    (dict(sampling_locations=torch.zeros(2, 5, 2, 2, 2, 3)), r"sampling_locations \[B, Q, heads,"),
    (dict(value=torch.zeros(2, 26, 3, 3)), r"expected sampling_locations \[2, Q, 3, L, P, 2\]"),
    (dict(attention_weights=torch.zeros(2, 5, 2, 4)), r"got \[2, 5, 2, 2, 2, 2\] and \[2, 5, 2, 4"),
    (dict(value=torch.zeros(2, 26, 2, 3, dtype=torch.int)), "value must be floating-point on cpu"),
    (dict(attention_weights=torch.zeros(2, 5, 2, 2, 2, device="meta")), "floating-point on cpu"),
    (dict(sampling_locations=torch.zeros(2, 5, 2, 0, 2, 2)), "at least one level and one point"),
    (dict(spatial_shapes=[(5, 4)]), "must hold 2 levels, as sampling_locations does, got"),
    (dict(spatial_shapes=torch.tensor([5, 4])), r"spatial_shapes must be integers \[2, 2\]"),
    (dict(spatial_shapes=torch.tensor([[5, 4]])), r"must be integers \[2, 2\] for 2 levels"),
    (dict(spatial_shapes=torch.ones(2, 2)), "got torch.float32"),
    (dict(level_start_index=[0]), r"level_start_index must be integers \[2\]"),
    (dict(level_start_index=[0, 21]), "3 x 2 from row 21 on does not lie within the 26 rows"),
    (dict(spatial_shapes=[(5, 4), (3, 3)]), "does not lie within the 26 rows"),
])
def test_bad_input(change, text):
    good = dict(zip(("value", "sampling_locations", "attention_weights"), inputs()))
    good |= dict(spatial_shapes=SIZES, level_start_index=None)
    with pytest.raises(ValueError, match=text):
        multi_scale_deformable_attention(**{**good, **change})


def test_sizes_that_the_host_knows_make_one_table(monkeypatch):
    made = []
    monkeypatch.setattr(op_module, "_tables", {})
    monkeypatch.setattr(op_module, "level_table",
                        lambda *args: made.append(level_table(*args)) or made[-1])
    with torch.inference_mode():  # what this makes no backward pass could save
        attend(*inputs())
    for sizes in (SIZES, SIZES, [list(size) for size in SIZES], SIZES[::-1], SIZES):
        grads = run(inputs(), torch.ones(2, 5, 6, dtype=torch.float64), sizes)
        assert len(grads) == 4
    assert len(made) == 3
    assert not made[1][0].is_inference()
    torch.manual_seed(0)
    again = inputs()
    torch.manual_seed(0)
    with torch.inference_mode():
        want = attend(*inputs())
    torch.testing.assert_close(attend(*again), want, rtol=0, atol=0)
    many = inputs(1, 1, 1, 1, [(2, 2)], 1)
    for n in range(op_module._MOST_TABLES + 2):
        attend(torch.zeros(1, 4 + n, 1, 1, dtype=torch.float64), *many[1:], [(2, 2)])
    assert 0 < len(op_module._tables) <= op_module._MOST_TABLES
    with pytest.raises(ValueError, match="does not lie within the 3 rows"):  # of what was checked
        attend(torch.zeros(1, 3, 1, 1, dtype=torch.float64), *many[1:], [(2, 2)])


# ------------------------------------------------------------------ the kernels
def assert_kernel(tensors, sizes, names=("out", "dvalue", "dplaces", "dweights")):
    value, places, _ = tensors
    dtype = value.dtype
    grad = torch.randn(*places.shape[:2], value.shape[2] * value.shape[3]).to(value)
    got = run(tensors, grad, sizes)
    # By the definition: the tuned path of a CPU loses less than it does.
    torchs = run(tensors, grad, sizes, define)
    truth = run([t.detach().double().requires_grad_() for t in tensors], grad.double(), sizes,
                define)
    for name, mine, theirs, exact, leaf in zip(names, got, torchs, truth, (value, *tensors)):
        assert mine.dtype == leaf.dtype
        assert_accurate(name, mine, theirs, exact, dtype)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "q", "heads", "d", "sizes", "p"), [
    (2, 19, 2, 32, [(5, 4), (3, 2), (1, 1)], 4),
    (1, 67, 1, 5, [(6, 7)], 1),      # channels and queries that do not fill their blocks
    (1, 7, 3, 80, [(2, 9), (3, 3)], 3),
    (2, 3, 1, 1, [(3, 4)], 2),
])
def test_kernel(kernel_device, dtype, b, q, heads, d, sizes, p):
    assert_kernel(inputs(b, q, heads, d, sizes, p, dtype, kernel_device), sizes)


@pytest.mark.kernel
def test_kernel_keeps_coordinates_in_float32(kernel_device):
    """Half-precision values with single-precision places, as under autocast, on a wide level."""
    sizes = [(2, 3001)]
    value, places, weights = inputs(1, 9, 1, 8, sizes, 2, torch.float32, kernel_device)
    for dtype in (torch.float16, torch.bfloat16):
        half = value.detach().to(dtype).requires_grad_()
        assert_kernel((half, places, weights), sizes)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_kernel_takes_any_strides(kernel_device, dtype):
    """By image first, by row first (neither is copied), sliced, and expanded."""
    tensors = inputs(2, 7, 2, 8, dtype=dtype, device=kernel_device)
    grad = torch.randn(2, 7, 16, device=kernel_device).to(dtype)
    want = run(tensors, grad)
    forms = [lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
             lambda t: torch.stack([t, t], -1)[..., 0],
             lambda t: t.movedim(2, 0).contiguous().movedim(0, 2)]
    for form in forms:
        got = run([form(t.detach()).requires_grad_() for t in tensors], grad)
        for mine, other in zip(got, want):
            torch.testing.assert_close(mine, other)
    one = torch.ones((), device=kernel_device, dtype=dtype).expand(2, 7, 16)
    for mine, other in zip(run(tensors, one), run(tensors, one.contiguous())):
        torch.testing.assert_close(mine, other)
    wide = [t.detach()[:1].expand(2, *t.shape[1:]).requires_grad_() for t in tensors]
    out = attend(*wide)
    assert torch.equal(out[0], out[1])
    torch.testing.assert_close(out[0], want[0][0])


@pytest.mark.kernel
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_kernel_computes_the_gradient_that_is_wanted(kernel_device, wanted):
    tensors = inputs(1, 5, 2, 4, dtype=torch.float32, device=kernel_device)
    every = torch.autograd.grad(attend(*tensors).sum(), tensors)
    for i, t in enumerate(tensors):
        t.requires_grad_(i in wanted)
    some = torch.autograd.grad(attend(*tensors).sum(), [tensors[i] for i in wanted])
    for i, grad in zip(wanted, some):
        torch.testing.assert_close(grad, every[i])


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", DTYPES)
def test_deterministic_gradient(kernel_device, dtype):
    """In fixed point the sum has one value whatever its order: that of the permuted queries too."""
    tensors = inputs(1, 40, 1, 8, [(2, 2)], 4, dtype, kernel_device)
    grad = torch.randn(1, 40, 8, device=kernel_device).to(dtype)
    order = torch.randperm(40, device=kernel_device)
    value, places, weights = tensors
    turned = (value, places.detach()[:, order].requires_grad_(),
              weights.detach()[:, order].requires_grad_())
    torch.use_deterministic_algorithms(True)
    try:
        want = run(tensors, grad, [(2, 2)])[1]
        assert torch.equal(run(turned, grad[:, order], [(2, 2)])[1], want)
        assert_kernel(tensors, [(2, 2)])
        nan = run(tensors, grad * math.nan, [(2, 2)])[1]
        assert nan.isnan().all()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.kernel
@pytest.mark.parametrize(("b", "q"), [(0, 5), (2, 0)])
def test_kernel_with_nothing(kernel_device, b, q):
    tensors = inputs(b, q, dtype=torch.float32, device=kernel_device)
    out, *grads = run(tensors, torch.zeros(b, q, 6, device=kernel_device))
    assert out.shape == (b, q, 6)
    for t, grad in zip(tensors, grads):
        assert grad.shape == t.shape
        assert grad.eq(0).all()


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
def test_kernel_outside_and_nowhere(kernel_device):
    value, _, weights = inputs(1, 4, 1, 4, [(4, 4)], 1, torch.float32, kernel_device)
    at = torch.tensor([[-0.2, 0.5], [0.5, 1.3], [-0.125, 1.125], [math.nan, math.inf]])
    places = at.view(1, 4, 1, 1, 1, 2).to(kernel_device).requires_grad_()
    grad = torch.ones(1, 4, 4, device=kernel_device)
    for t in run((value, places, weights), grad, [(4, 4)]):
        assert t.eq(0).all()


@pytest.mark.kernel
def test_kernel_reads_no_level_that_does_not_fit(kernel_device):
    """Sizes on a GPU cannot be checked by the host; memory outside ``value`` is not touched."""
    value, places, weights = inputs(1, 5, 1, 4, SIZES, 2, torch.float32, kernel_device)
    sizes = torch.tensor([[5, 4], [3, 2]], device=kernel_device)
    want = run((value, places, weights), torch.ones(1, 5, 4, device=kernel_device))
    for bad in (21, -1, 2**31, 2**40):
        starts = torch.tensor([0, bad], device=kernel_device)
        got = op_module._forward(value, sizes, starts, places, weights)
        first = op_module._forward(value, sizes[:1], starts[:1], places[:, :, :, :1],
                                   weights[:, :, :, :1])
        assert torch.equal(got, first)
    assert not torch.equal(want[0], got)


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    with pytest.raises(fastdet.BackendError, match="not float64"):
        attend(*inputs(device=kernel_device))
    many = inputs(1, 2, 1, 2, [(2, 2)], 17, torch.float32, kernel_device)
    with pytest.raises(fastdet.BackendError, match="up to 16 points on a level, not 17"):
        attend(*many, [(2, 2)])
    wide = inputs(1, 2, 1, 257, [(2, 2)], 1, torch.float32, kernel_device)
    with pytest.raises(fastdet.BackendError, match="1 to 256 channels, not 257"):
        attend(*wide, [(2, 2)])
    with fastdet.backend("auto"):
        assert attend(*many, [(2, 2)]).shape == (1, 2, 2)


@pytest.mark.kernel
def test_autocast_leaves_places_alone(kernel_device):
    value, places, weights = inputs(1, 5, 2, 4, dtype=torch.float32, device=kernel_device)
    with torch.autocast(kernel_device.type, dtype=torch.bfloat16):
        got = attend(value.bfloat16(), places, weights)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, attend(value.bfloat16(), places, weights))


@pytest.mark.kernel
@pytest.mark.parametrize("by_row", [False, True])
def test_opcheck(kernel_device, by_row):
    tensors = inputs(2, 5, 2, 4, dtype=torch.float32, device=kernel_device)
    if by_row:
        tensors = [t.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
                   for t in tensors]
    value, places, weights = tensors
    table = level_table(SIZES, kernel_device)
    torch.library.opcheck(op_module._forward.traced, (value, *table, places, weights))


@pytest.mark.kernel
def test_compiled_with_changing_sizes(kernel_device):
    torch._dynamo.reset()
    form = torch.compile(multi_scale_deformable_attention, fullgraph=True, dynamic=True,
                         backend="aot_eager")
    with torch._dynamo.config.patch(recompile_limit=4):
        for q, sizes in [(5, [(5, 4), (3, 2)]), (9, [(4, 7), (2, 3)]), (12, [(6, 3), (5, 5)])]:
            leaves = inputs(2, q, 2, 4, sizes, 2, torch.float32, kernel_device)
            table = level_table(sizes, kernel_device)
            got, want = (function(leaves[0], *table, *leaves[1:])
                         for function in (form, multi_scale_deformable_attention))
            assert torch.equal(got, want)
            for mine, other in zip(*(torch.autograd.grad(out.square().sum(), leaves)
                                     for out in (got, want))):
                torch.testing.assert_close(mine, other)


def test_reference_compiles_with_a_list_of_sizes():
    torch._dynamo.reset()
    form = torch.compile(attend, fullgraph=True, dynamic=True, backend="aot_eager")
    for q, sizes in [(5, [(5, 4), (3, 2)]), (9, [(4, 7), (2, 3)])]:
        tensors = inputs(q=q, sizes=sizes)
        torch.testing.assert_close(form(*tensors, sizes), attend(*tensors, sizes))


@pytest.mark.parametrize("kind", ["fwd", "bwd"])
@pytest.mark.parametrize("d", [1, 5, 16, 32, 33, 64, 128, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_launch_configs(kind, d, dtype):
    """Blocks are powers of two that hold a head; a thread has what it loads or adds at once."""
    config = op_module._config(kind, d, dtype)
    assert d <= config.block_d < 2 * d
    assert config.block_q & (config.block_q - 1) == 0
    each = config.block_q * config.block_d / (32 * config.num_warps)
    assert each <= (16 // dtype.itemsize if kind == "fwd" else 4)
