"""The generators of anchors and points: numbers, properties, ownership, compilation, errors."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastdet.core
from fastdet.core.anchor import (
    ANCHOR_GENERATORS,
    PRIOR_GENERATORS,
    AnchorGenerator,
    LegacyAnchorGenerator,
    LegacySSDAnchorGenerator,
    MlvlPointGenerator,
    PointGenerator,
    SSDAnchorGenerator,
    YOLOAnchorGenerator,
    anchor_inside_flags,
    build_anchor_generator,
    build_prior_generator,
    calc_region,
    images_to_levels,
)

SIZES = [(5, 7), (3, 4)]


def retina():
    return AnchorGenerator(strides=[8, (16, 12)], ratios=[0.5, 1.0, 2.0], octave_base_scale=4,
                           scales_per_octave=3)


def yolo():
    return YOLOAnchorGenerator([32, 16], [[(116, 90), (156, 198)], [(30, 61)]])


GENERATORS = {
    "anchor": retina,
    "fractional": lambda: AnchorGenerator([7.971014492753623, 15.7], [1.0, 2.0], [3], [8, 16],
                                          centers=[(3.98, 3.98), (7.8, 7.8)]),
    "legacy": lambda: LegacyAnchorGenerator([8, 16], [0.5, 1.0], [8], center_offset=0.5),
    "yolo": yolo,
    "point": lambda: MlvlPointGenerator([8, (16, 12)]),
    "fractional-point": lambda: MlvlPointGenerator([7.3, 15.7], offset=0.3),
}
generators = pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)


def test_documented_example():
    anchors = AnchorGenerator([16, 32], [1.], [1.], [9, 18]).grid_priors(
        [(2, 2), (1, 1)], device="cpu")
    assert anchors[0].tolist() == [[-4.5, -4.5, 4.5, 4.5], [11.5, -4.5, 20.5, 4.5],
                                   [-4.5, 11.5, 4.5, 20.5], [11.5, 11.5, 20.5, 20.5]]
    assert anchors[1].tolist() == [[-9., -9., 9., 9.]]


def test_documented_legacy_example():
    generator = LegacyAnchorGenerator([16], [1.], [1.], [9], center_offset=0.5)
    with pytest.warns(UserWarning, match="grid_anchors is deprecated"):
        anchors = generator.grid_anchors(((2, 2),), device="cpu")
    assert anchors[0].tolist() == [[0., 0., 8., 8.], [16., 0., 24., 8.],
                                   [0., 16., 8., 24.], [16., 16., 24., 24.]]


def test_order_of_base_anchors():
    ratios, scales = [0.25, 4.0], [1, 3]

    def shapes(**kwargs):
        base = AnchorGenerator([8], ratios, scales, **kwargs).base_anchors[0]
        return [tuple(side) for side in (base[:, 2:] - base[:, :2]).tolist()]

    assert shapes() == [(16., 4.), (48., 12.), (4., 16.), (12., 48.)]
    assert shapes(scale_major=False) == [(16., 4.), (4., 16.), (48., 12.), (12., 48.)]
    assert AnchorGenerator([(8, 4)], [1.], [1.]).base_sizes == [4]


def test_legacy_rounds_half_to_even():
    base = LegacyAnchorGenerator([8], [1.0], [1], [2, ], center_offset=0.).base_anchors[0]
    assert base.tolist() == [[-0., -0., 0., 0.]]  # +-0.5


def test_ssd_sizes():
    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    voc = SSDAnchorGenerator([8, 16, 32, 64, 100, 300], ratios, basesize_ratio_range=(0.2, 0.9),
                             scale_major=False)
    assert voc.base_sizes == [30, 60, 111, 162, 213, 264]
    assert voc.num_base_priors == [4, 6, 6, 6, 4, 4]
    widths = voc.base_anchors[0][:, 2] - voc.base_anchors[0][:, 0]
    torch.testing.assert_close(
        widths, torch.tensor([30, (30 * 60) ** 0.5, 30 * 2 ** 0.5, 30 / 2 ** 0.5]))
    legacy = LegacySSDAnchorGenerator([8, 16, 32, 64, 100, 300], ratios, (0.15, 0.9))
    assert isinstance(legacy, LegacyAnchorGenerator)
    assert legacy.centers[0] == (3.5, 3.5)
    assert torch.equal(legacy.base_anchors[0], legacy.base_anchors[0].round())


@generators
def test_sparse_priors_are_rows_of_the_dense(make):
    generator = make()
    for level, size in enumerate(SIZES):
        dense = generator.single_level_grid_priors(size, level, device="cpu")
        rows = torch.randint(len(dense), (20,))
        assert torch.equal(
            generator.sparse_priors(rows, size, level, device="cpu"), dense[rows])


@generators
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_levels_are_single_levels(make, dtype):
    generator = make()
    for level, priors in enumerate(generator.grid_priors(SIZES, dtype, "cpu")):
        assert priors.dtype == dtype
        assert torch.equal(
            priors, generator.single_level_grid_priors(SIZES[level], level, dtype, "cpu"))


def test_sparse_priors_add_float32_base_anchors():
    sparse = retina().sparse_priors(torch.arange(3), (5, 7), 0, torch.float16, "cpu")
    assert sparse.dtype == torch.float32
    points = MlvlPointGenerator([8]).sparse_priors(torch.arange(3), (5, 7), 0, torch.float16, "cpu")
    assert points.dtype == torch.float16


def test_deprecated_names_agree():
    generator = retina()
    assert generator.num_base_anchors == generator.num_base_priors == [9, 9]
    want = generator.grid_priors(SIZES, device="cpu")
    with pytest.warns(UserWarning, match="single_level_grid_anchors is deprecated"):
        got = generator.single_level_grid_anchors(
            generator.base_anchors[1], SIZES[1], generator.strides[1], device="cpu")
    assert torch.equal(got, want[1])


@given(st.integers(0, 80), st.integers(0, 80), st.sampled_from([8, (8, 12), 7.3]))
def test_valid_flags_count(pad_h, pad_w, stride):
    generator = AnchorGenerator([stride], [1.0, 2.0], [8])
    flags, = generator.valid_flags([(6, 9)], (pad_h, pad_w, 3), device="cpu")
    stride_w, stride_h = generator.strides[0]
    rows = sum(y * stride_h < pad_h for y in range(6))
    columns = sum(x * stride_w < pad_w for x in range(9))
    assert int(flags.sum()) == rows * columns * 2
    assert flags.view(6, 9, 2)[:rows, :columns].all()


@generators
def test_batch_valid_flags_are_those_of_the_images(make):
    generator = make()
    pads = [(40, 56, 3), (17, 33, 3), (0, 9, 3)]
    batch = generator.batch_valid_flags(SIZES, pads, "cpu")
    for image, pad in enumerate(pads):
        for level, flags in zip(batch, generator.valid_flags(SIZES, pad, "cpu")):
            assert torch.equal(level[image], flags)


def test_single_level_valid_flags():
    flags = retina().single_level_valid_flags((3, 4), (2, 1), 2, device="cpu").view(3, 4, 2)
    assert torch.equal(flags.nonzero().unique(dim=0),
                       torch.tensor([[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]))
    assert torch.equal(MlvlPointGenerator([8]).single_level_valid_flags((3, 4), (2, 1), "cpu"),
                       flags[..., 0].reshape(-1))


def test_point_generator():
    points = PointGenerator().grid_points((2, 3), 8, "cpu")
    assert points.tolist() == [[x * 8., y * 8., 8.] for y in range(2) for x in range(3)]
    assert PointGenerator().valid_flags((2, 3), (1, 2), "cpu").tolist() == [
        True, True, False, False, False, False]


def test_points_with_stride():
    points = MlvlPointGenerator([(8, 4)]).grid_priors([(2, 1)], device="cpu", with_stride=True)
    assert points[0].tolist() == [[4., 2., 8., 4.], [4., 6., 8., 4.]]


def test_responsible_flags():
    boxes = torch.tensor([[10., 10., 30., 50.], [33., 0., 35., 2.]])  # centres (20, 30), (34, 1)
    flags = yolo().responsible_flags([(2, 3), (4, 6)], boxes, device="cpu")
    assert [f.dtype for f in flags] == [torch.uint8] * 2
    assert flags[0].view(2, 3, 2).nonzero().tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert flags[1].view(4, 6, 1).nonzero().tolist() == [[0, 2, 0], [1, 1, 0]]


def test_functions():
    anchors = torch.tensor([[0., 0., 9., 9.], [-1., 0., 5., 5.], [0., 0., 10., 5.]])
    valid = torch.tensor([True, True, True])
    assert anchor_inside_flags(anchors, valid, (20, 10, 3)).tolist() == [True, False, False]
    assert anchor_inside_flags(anchors, valid, (20, 10), 1).tolist() == [True, True, True]
    assert anchor_inside_flags(anchors, valid, (20, 10), -1) is valid
    assert [int(v) for v in calc_region(torch.tensor([0., 10., 100., 30.]), 0.1, (25, 80))] == [
        10, 12, 80, 25]
    levels = images_to_levels([torch.arange(5), torch.arange(5, 10)], [3, 2])
    assert [level.tolist() for level in levels] == [[[0, 1, 2], [5, 6, 7]], [[3, 4], [8, 9]]]


def test_registry():
    assert ANCHOR_GENERATORS is PRIOR_GENERATORS
    config = {"type": "MlvlPointGenerator", "strides": [4]}
    assert isinstance(build_prior_generator(config), MlvlPointGenerator)
    with pytest.warns(UserWarning, match="build_anchor_generator is deprecated"):
        assert isinstance(build_anchor_generator(config), MlvlPointGenerator)
    for name in fastdet.core.anchor.__all__:
        assert getattr(fastdet.core, name) is getattr(fastdet.core.anchor, name)


@generators
def test_repr_and_copies(make):
    generator = make()
    generator.grid_priors(SIZES, device="cpu")
    for twin in (copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
        assert repr(twin) == repr(generator)
        assert all(map(torch.equal, twin.grid_priors(SIZES, device="cpu"),
                       generator.grid_priors(SIZES, device="cpu")))
    assert f"strides={generator.strides}" in repr(generator)


# ---------------------------------------------------------------- whose a result is

def every_result(generator):
    """All that a generator hands out, as a flat list."""
    results = [*generator.grid_priors(SIZES, device="cpu"),
               *generator.grid_priors(SIZES, torch.float16, "cpu"),
               *generator.valid_flags(SIZES, (20, 30), "cpu"),
               *generator.valid_flags(SIZES, (400, 600), "cpu"),
               *generator.batch_valid_flags(SIZES, [(20, 30), (40, 9)], "cpu"),
               generator.single_level_grid_priors(SIZES[1], 1, device="cpu"),
               generator.sparse_priors(torch.arange(9), SIZES[1], 1, device="cpu")]
    if isinstance(generator, MlvlPointGenerator):
        results += generator.grid_priors(SIZES, device="cpu", with_stride=True)
    return results


WRITES = {
    "in-place": lambda t: t.zero_() if t.dtype == torch.bool else t.add_(100),
    "numpy": lambda t: t.numpy().fill(1),
    "data": lambda t: t.data.fill_(1),
    "view": lambda t: t[..., ::2].fill_(1),
    "dlpack": lambda t: torch.from_dlpack(t).fill_(1),
}


@generators
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_results_are_the_callers_own(make, write):
    generator = make()
    first, second = every_result(generator), every_result(generator)
    want = [result.clone() for result in first]
    for i, result in enumerate(first):
        before = [other.clone() for other in first[i + 1:]]
        write(result)
        assert all(map(torch.equal, first[i + 1:], before))
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(first, second))
    assert all(map(torch.equal, second, want))
    assert all(map(torch.equal, every_result(generator), want))


@generators
def test_point_generator_and_legacy_flags_are_the_callers_own(make):
    generator = make()
    count = [generator.num_base_priors[0]] if isinstance(generator, AnchorGenerator) else []
    for call in (lambda: generator.single_level_valid_flags((3, 4), (2, 4), *count, device="cpu"),
                 lambda: PointGenerator().valid_flags((3, 4), (3, 4), "cpu"),
                 lambda: PointGenerator().grid_points((3, 4), 8, "cpu")):
        first = call()
        want = first.clone()
        first.zero_()
        assert torch.equal(call(), want)


@generators
def test_writes_do_not_spoil_a_backward_pass(make):
    generator = make()
    weight = torch.ones(1, requires_grad=True)
    first, second = (generator.grid_priors(SIZES, device="cpu") for _ in range(2))
    loss = sum((level * weight).sum() for level in first)
    want = sum(float(level.double().sum()) for level in first)
    for level in second:
        level.zero_()
    (first[1] * weight).sum().backward()  # levels of one call count their versions apart
    assert weight.grad is not None
    first[0].detach()
    weight.grad = None
    loss.backward()
    assert float(weight.grad) == pytest.approx(want, rel=1e-4, abs=1e-3)
    left, right = generator.grid_priors(SIZES, device="cpu")
    loss = (right * weight).sum()
    left.zero_()
    loss.backward()


@generators
def test_results_of_other_modes_and_gradients_do_not_show(make):
    generator = make()
    want = [level.clone() for level in make().grid_priors(SIZES, device="cpu")]
    with torch.inference_mode():
        priors = generator.grid_priors(SIZES, device="cpu")
        assert all(map(torch.equal, priors, want))
        priors[0].zero_()
    weight = torch.ones(1, requires_grad=True)
    priors = generator.grid_priors(SIZES, device="cpu")
    assert all(map(torch.equal, priors, want))
    priors[0].mul_(weight).sum().backward()
    assert weight.grad is not None
    again = generator.grid_priors(SIZES, device="cpu")
    assert all(map(torch.equal, again, want))
    assert not again[0].requires_grad
    assert not again[0].is_inference()


def test_changed_base_anchors_and_strides_count():
    generator = retina()
    before = generator.grid_priors(SIZES, device="cpu")[0].clone()
    generator.base_anchors[0] += 1
    assert torch.equal(generator.grid_priors(SIZES, device="cpu")[0][:9], before[:9] + 1)
    generator.base_anchors = [base[:2] for base in generator.base_anchors]
    assert len(generator.grid_priors(SIZES, device="cpu")[0]) == 5 * 7 * 2
    generator.strides = [(1, 1), (1, 1)]
    shifted = generator.grid_priors(SIZES, device="cpu")[0]
    assert torch.equal(shifted[2:4], shifted[:2] + torch.tensor([1., 0., 1., 0.]))


def test_fake_tensors_leave_nothing_behind():
    generator = MlvlPointGenerator([8, 16])
    with torch._subclasses.FakeTensorMode():
        fake = generator.grid_priors(SIZES, device="cpu")
    assert fake[0].shape == (35, 2)
    assert type(generator.grid_priors(SIZES, device="cpu")[0]) is torch.Tensor


# ---------------------------------------------------------------- compilation

@torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True)
def test_compiles_once_for_changing_sizes():
    torch._dynamo.reset()
    anchors, points = retina(), MlvlPointGenerator([7.3, 16])

    def call(x, z):
        sizes = [x.shape[-2:], z.shape[-2:]]
        h, w = x.shape[-2] * 7, x.shape[-1] * 7 + 3
        return [t * 2 for t in (
            *anchors.grid_priors(sizes, torch.bfloat16, x.device),
            *points.grid_priors(sizes, device="cpu", with_stride=True),
            *anchors.valid_flags(sizes, (h, w), x.device),
            *points.batch_valid_flags(sizes, [(h, w), (h // 2, w)], "cpu"),
            anchors.sparse_priors(torch.arange(7), sizes[1], 1, device="cpu"),
            points.sparse_priors(torch.arange(7), sizes[1], 1, device="cpu"))]

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for h, w in ((12, 13), (20, 31), (9, 40), (30, 17)):
        x, z = torch.zeros(1, 2, h, w), torch.zeros(1, 2, (h + 1) // 2, (w + 1) // 2)
        assert all(map(torch.equal, compiled(x, z), call(x, z)))


# ---------------------------------------------------------------- on a GPU

@pytest.mark.gpu
@generators
def test_gpu_equals_cpu(make):
    generator = make()
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        for got, want in zip(generator.grid_priors(SIZES, dtype),
                             generator.grid_priors(SIZES, dtype, "cpu")):
            assert got.is_cuda
            assert torch.equal(got.cpu(), want)
    for got, want in zip(generator.valid_flags(SIZES, (20, 30)),
                         generator.valid_flags(SIZES, (20, 30), "cpu")):
        assert torch.equal(got.cpu(), want)
    rows = torch.arange(9, device="cuda")
    assert torch.equal(generator.sparse_priors(rows, SIZES[0], 0).cpu(),
                       generator.sparse_priors(rows.cpu(), SIZES[0], 0, device="cpu"))


@pytest.mark.gpu
def test_captured_in_a_cuda_graph():
    generator = retina()
    want = [level.clone() for level in generator.grid_priors(SIZES)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = generator.grid_priors(SIZES)
    got[0].zero_()
    graph.replay()
    assert all(map(torch.equal, got, want))


# ---------------------------------------------------------------- bad arguments

RATIOS = [[2]] * 6


@pytest.mark.parametrize(("call", "message"), [
    (lambda: retina().grid_priors([(2, 2)], device="cpu"), "got 1 sizes for 2 levels"),
    (lambda: retina().valid_flags([(2, 2)] * 3, (8, 8), "cpu"), "got 3 sizes for 2 levels"),
    (lambda: MlvlPointGenerator([8]).grid_priors(SIZES, device="cpu"), "got 2 sizes for 1 levels"),
    (lambda: yolo().responsible_flags([(2, 2)], torch.zeros(0, 4), "cpu"),
     "got 1 sizes for 2 levels"),
    (lambda: retina().single_level_grid_priors((2, 2), 2, device="cpu"),
     "level_idx must be below the 2 levels, got 2"),
    (lambda: retina().valid_flags(SIZES, (-1, 8), "cpu"), r"must not be negative, got \(-1, 8\)"),
    (lambda: retina().single_level_valid_flags((2, 2), (3, 1), 9, "cpu"),
     r"must lie within its feature map's \(2, 2\), got \(3, 1\)"),
    (lambda: retina().sparse_priors(torch.tensor([3, 315]), (5, 7), 0, device="cpu"),
     r"prior_idxs must lie in 0\.\.314, .*got 315"),
    (lambda: MlvlPointGenerator([8]).sparse_priors(torch.tensor([-1, 3]), (5, 7), 0, device="cpu"),
     r"prior_idxs must lie in 0\.\.34, .*got -1"),
    (lambda: retina().grid_priors([(4.5, 7), (3, 4)], device="cpu"),
     r"\(height, width\) in whole cells, got \(4\.5, 7\)"),
    (lambda: PointGenerator().grid_points((2, 3, 4), 8, "cpu"),
     r"\(height, width\) in whole cells, got \(2, 3, 4\)"),
    (lambda: MlvlPointGenerator([8]).valid_flags([(4, 7.25)], (8, 8), "cpu"), "whole cells"),
    (lambda: PointGenerator().grid_points((2, 3), 0, "cpu"), "stride must be positive, got 0"),
    (lambda: MlvlPointGenerator([8, (4, -2)]), r"strides must be positive, got \[.*\(4, -2\)\]"),
    (lambda: AnchorGenerator([0], [1.], [1.]), "strides must be positive, got"),
    (lambda: AnchorGenerator([8], [1.], [2, -1.]), r"scales must be positive, got \[2, -1\.0\]"),
    (lambda: AnchorGenerator([8], [0.], [1.]), r"ratios must be positive, got \[0\.0\]"),
    (lambda: AnchorGenerator([8], [1.], [1.], [float("nan")]), "base_sizes must be positive"),
    (lambda: AnchorGenerator([8], [1.], octave_base_scale=4, scales_per_octave=0),
     "scales_per_octave must be positive, got 0"),
    (lambda: YOLOAnchorGenerator([8, -16], [[(1, 1)], [(2, 2)]]), "strides must be positive"),
    (lambda: SSDAnchorGenerator([8], [[2]], [10], [-20]), "max_sizes must be positive"),
    (lambda: AnchorGenerator([8], [1.], [1.], centers=[(0, 0)], center_offset=0.5),
     "give centers or center_offset, not both"),
    (lambda: AnchorGenerator([8], [1.], [1.], center_offset=1.5), r"in \[0, 1\], got 1.5"),
    (lambda: AnchorGenerator([8], [1.]), "give either scales, or octave_base_scale"),
    (lambda: AnchorGenerator([8], [1.], [1.], octave_base_scale=4, scales_per_octave=3),
     "give either scales, or octave_base_scale"),
    (lambda: AnchorGenerator([8], [1.], [1.], [8, 16]),
     "base_sizes must have one entry per level: it has 2, and the strides have 1"),
    (lambda: AnchorGenerator([8, 16], [1.], [1.], centers=[(0, 0)]), "centers must have one entry"),
    (lambda: AnchorGenerator(8, [1.], [1.]), "strides must be a list with one entry per level"),
    (lambda: AnchorGenerator([(8, 8, 8)], [1.], [1.]), r"a pair, got \(8, 8, 8\)"),
    (lambda: SSDAnchorGenerator([8], [[2]], min_sizes=[10]), "give min_sizes and max_sizes"),
    (lambda: SSDAnchorGenerator([8], [[2]], [10], [20, 30]), "max_sizes must have one entry"),
    (lambda: SSDAnchorGenerator([8] * 6, RATIOS, input_size=320), "got 320 with 0.15"),
    (lambda: SSDAnchorGenerator([8] * 6, RATIOS, basesize_ratio_range=(0.3, 0.9)),
     "got 300 with 0.3"),
    (lambda: SSDAnchorGenerator([8] * 2, RATIOS[:2]), "at least 3 levels are needed, got 2"),
    (lambda: YOLOAnchorGenerator([8, 16], [[(1, 1)]]), "base_sizes must have one entry per level"),
    (lambda: yolo().gen_single_level_base_anchors([(1, 1)]), "center must be"),
    (lambda: images_to_levels([torch.zeros(5)], [3, 3]), "levels have 6 priors, .* image have 5"),
])
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to run on")
@generators
def test_no_gpu_is_said_in_one_sentence(make):
    generator = make()
    assert generator.valid_flags(SIZES, (9, 9))[0].device.type == "cpu"
    for call in (lambda: generator.grid_priors(SIZES),
                 lambda: generator.single_level_grid_priors(SIZES[0], 0),
                 lambda: generator.sparse_priors(torch.arange(3), SIZES[0], 0),
                 lambda: PointGenerator().grid_points((2, 3))):
        with pytest.raises(RuntimeError, match=r"^device='cuda' .* pass device='cpu'$"):
            call()


def test_unknown_type():
    with pytest.raises(KeyError, match="did you mean AnchorGenerator"):
        build_prior_generator({"type": "AnchorGenerater", "strides": [8]})
