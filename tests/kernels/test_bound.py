"""Launches without Triton's binder pick the kernel it would pick, and hand over what it would."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.stub import stubbed
from fastdet.kernels import bound
from fastdet.kernels.dispatch import interpreting
from fastdet.kernels.launch import Program, launch

triton = pytest.importorskip("triton")
tl = triton.language

pytestmark = pytest.mark.skipif(interpreting(), reason="the interpreter has no binder")
VERSION = tuple(int(n) for n in triton.__version__.split(".")[:2])
FAST = pytest.mark.skipif(VERSION < (3, 6), reason="Triton binds in Python before 3.6")

SCALE = tl.constexpr(3)


@triton.jit
def plain(a, b, m, n, x, BLOCK: tl.constexpr, NAME: tl.constexpr):
    tl.store(a, tl.load(b) * SCALE + m + n + x)


@triton.jit(do_not_specialize=["m", "x"], do_not_specialize_on_alignment=["b", "n"])
def loose(a, b, m, n, x, BLOCK: tl.constexpr, NAME: tl.constexpr = "none"):
    tl.store(a, tl.load(b) * SCALE + m + n + x)


@triton.jit
def typed(a, n: tl.int64, BLOCK: tl.constexpr):
    tl.store(a, n)


@pytest.fixture
def stub():
    bound._known.clear()
    with stubbed() as stub:
        yield stub
    bound._known.clear()


@pytest.fixture
def learned(monkeypatch):
    """How many launches went through Triton's binder."""
    learned, learn = [], bound._Bound.learn

    def through(self, key, grid, args):
        learned.append(key)
        learn(self, key, grid, args)

    monkeypatch.setattr(bound._Bound, "learn", through)
    return learned


MEMORY = torch.zeros(4096, dtype=torch.uint8)
TENSORS = st.builds(
    lambda dtype, offset: MEMORY[offset * dtype.itemsize:][:64 * dtype.itemsize].view(dtype),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8,
                     torch.uint8, torch.int32, torch.int64, torch.bool]),
    st.integers(0, 33))
INTS = st.sampled_from([0, 1, 2, 15, 16, 17, 32, -1, -16, 2**31 - 1, 2**31, -2**31, -2**31 - 1,
                        2**62, 2**63 - 1, 2**63, 2**64 - 16]) | st.integers(-100, 100)
ANY = TENSORS | INTS | st.none() | st.booleans() | st.floats(-2, 2)


def same(ours, theirs):
    """Whether two launches are one: the kernel, and every argument of its launcher."""
    assert ours[0] is theirs[0]
    (*start, _, _, _), (*wanted, _, _, _) = ours[1][:9], theirs[1][:9]
    assert start == wanted  # grid, stream, function, packed metadata
    assert len(ours[1]) == len(theirs[1])
    assert all(a is b or (a == b and type(a) is type(b))
               for a, b in zip(ours[1][9:], theirs[1][9:]))


def test_versions_with_a_native_specialisation_are_bound():
    assert (bound._triton() is not None) == (VERSION >= (3, 6))


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@settings(max_examples=150)
@given(calls=st.lists(st.tuples(
    st.sampled_from([plain, loose]), st.sampled_from([(1,), (2, 3), (4, 5, 6)]),
    st.tuples(TENSORS | st.none(), TENSORS, ANY, ANY, ANY),
    st.fixed_dictionaries({"BLOCK": st.sampled_from([1, 16, 32]),
                           "NAME": st.sampled_from(["ieee", "tf32"])},
                          optional={"num_warps": st.sampled_from([2, 4, 8]),
                                    "num_stages": st.sampled_from([1, 3])})), max_size=6))
def test_the_kernel_is_the_one_that_triton_picks(target, calls):
    with stubbed(target) as stub:
        for kernel, grid, args, options in calls:
            kernel[grid](*args, **options)
            for _ in range(2):  # the first may be new, the second is not
                bound.bound_launch(kernel, grid, args, options)
            theirs, first, second = stub.launches[-3:]
            same(first, theirs)
            same(second, theirs)
            if VERSION >= (3, 6):
                assert second[1][6] is None  # no metadata for hooks: that was the short way
            # The numbers looked at once, with these tensors and with others.
            numbers, forms = args[2:], {}
            repeated = bound.Repeated(kernel, grid, numbers, options, forms)
            for tensors in (args[:2], calls[0][2][:2], args[:2]):
                repeated.start((7,), tensors)
                kernel[(7,)](*tensors, *numbers, **options)
                same(*stub.launches[-2:])
            if VERSION >= (3, 6):
                assert stub.launches[-2][1][6] is None
    bound._known.clear()


@FAST
def test_numbers_are_looked_at_once_for_every_driver(stub, learned):
    x = torch.zeros(64)
    step = Program(plain, BLOCK=16, NAME="a").at((2, 3), 16, 2, 0.5)
    for _ in range(3):
        step(x, x, device=x.device)
    step(x, x[1:], device=x.device, grid=(4,))
    step(x, x, device=x.device, grid=(4, 0))
    assert [args[:3] for _, args in stub.launches] == 3 * [(2, 3, 1)] + [(4, 1, 1)]
    assert len(learned) == len(stub.compiled) == 2
    with stubbed() as other:
        step(x, x, device=x.device)
        step(x, x, device=x.device)
    assert [compiled.stub for compiled, _ in other.launches] == [other, other]
    assert other.launches[1][1][6] is None


@FAST
def test_a_specialisation_is_learned_once(stub, learned):
    x = torch.zeros(64)
    sizes = [(2,), (1,), (16,), (3,), (32,), (1,), (5,)]
    for (m,), offset in product(sizes, (0, 1)):
        launch(plain, (1,), x, x[offset:], m, 2, 0.5, BLOCK=16, NAME="a", device=x.device)
    assert len(learned) == len(stub.compiled) == 6  # aligned or not; 1, a multiple of 16, other
    assert stub.launched == 14
    launch(plain, (1,), x, x, 2, 2, 0.5, BLOCK=32, NAME="a", device=x.device)
    launch(plain, (1,), x, x, 2, 2, 0.5, BLOCK=32, NAME="a", num_warps=8, device=x.device)
    launch(plain, (1,), x.half(), x, 2, 2, 0.5, BLOCK=32, NAME="a", device=x.device)
    assert len(learned) == len(stub.compiled) == 9
    assert [c.options["num_warps"] for c in stub.compiled[-3:]] == [4, 8, 4]


def start(kernel=plain, x=MEMORY, **options):
    bound.bound_launch(kernel, (1,), (x, x, 3, 5, 0.5), {"BLOCK": 16, "NAME": "a", **options})


@FAST
@pytest.mark.parametrize("case", ["launch_enter_hook", "launch_exit_hook"])
def test_hooks_are_called_by_triton(stub, learned, case, monkeypatch):
    start()
    start()
    (_, args), = stub.launches[1:]
    assert args[6:9] == (None, None, None)
    hook = getattr(triton.knobs.runtime, case)
    hook.add(print)
    try:
        start()
    finally:
        hook.remove(print)
    assert stub.launches[-1][1][6] == "metadata"
    assert hook in stub.launches[-1][1][7:9]
    monkeypatch.setattr(triton.knobs.runtime, case, print)
    start()
    assert print in stub.launches[-1][1][7:9]
    assert len(learned) == 1


@FAST
def test_what_changes_launches_goes_through_triton(stub, learned, monkeypatch):
    start()
    for owner, name, value in (
            (triton.knobs.runtime, "debug", True),
            (triton.knobs.compilation, "instrumentation_mode", "fpsan"),
            (plain, "debug", True),
            (plain, "pre_run_hooks", [lambda *args, **kwargs: None])):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            before = stub.launched
            start()
            assert stub.launched == before + 1
            assert stub.launches[-1][1][6] == "metadata", name
    seen = []
    run = triton.JITFunction.run
    with monkeypatch.context() as patch:
        patch.setattr(triton.JITFunction, "run", lambda self, *args, **kwargs: (
            seen.append(self), run(self, *args, **kwargs)))
        start()
    assert seen == [plain]
    start()
    assert stub.launches[-1][1][6] is None
    assert len(learned) == 1


@FAST
def test_what_was_compiled_for_another_driver_is_not_launched(stub):
    start()
    start()
    with stubbed() as other:
        start()
        start()
        assert other.launched == 2
    triton.runtime.driver.set_active(stub)
    plain.device_caches.pop(stub.device)
    start()
    assert len(stub.compiled) == 2
    assert stub.launches[-1][0] is stub.compiled[1]


@FAST
def test_a_changed_constant_is_an_error_as_ever(stub, monkeypatch):
    start()
    start()
    monkeypatch.setitem(globals(), "SCALE", tl.constexpr(4))
    with pytest.raises(RuntimeError, match="SCALE has changed"):
        start()


def test_what_is_not_of_the_usual_form_is_left_to_triton(stub, learned):
    bound.bound_launch(typed, (1,), (MEMORY, 3), {"BLOCK": 1})
    start(loose)  # fine
    bound.bound_launch(loose, (1,), (MEMORY, MEMORY, 3, 5, 0.5), {"BLOCK": 16})  # a default
    assert stub.launched == 3
    with pytest.raises(TypeError):
        bound.bound_launch(plain, (1,), (MEMORY,), {"BLOCK": 16, "NAME": "a"})
    with pytest.raises(KeyError, match="num_warp"):
        start(num_warp=4)
    assert len(learned) <= 2


@FAST
def test_a_triton_that_looks_at_more_is_left_alone(monkeypatch):
    def run(self, *args, grid, warmup, **kwargs):
        return self.another_cache[grid]

    monkeypatch.setattr(triton.JITFunction, "run", run)
    assert bound._triton.__wrapped__() is None
