"""Which backend is in force, for whom; and what precision torch's settings ask of a product."""

import contextvars
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import fastdet
from fastdet.kernels import dispatch
from fastdet.kernels.dispatch import use_triton

ROOT = Path(__file__).parents[2]


def in_thread(call):
    """What ``call`` returns in another thread."""
    out = []
    thread = threading.Thread(target=lambda: out.append(call()))
    thread.start()
    thread.join()
    return out[0]


@pytest.fixture
def process_backend():
    """The choice of the process as it was, restored afterwards."""
    before = fastdet.get_backend()
    yield before
    fastdet.set_backend(before)


def test_a_block_is_of_its_thread_alone(process_backend):
    with fastdet.backend("torch"):
        assert fastdet.get_backend() == "torch"
        assert in_thread(fastdet.get_backend) == process_backend
        with fastdet.backend("triton"):
            assert fastdet.get_backend() == "triton"
        assert fastdet.get_backend() == "torch"
    assert fastdet.get_backend() == process_backend


def test_two_threads_do_not_undo_each_other(process_backend):
    entered, left = threading.Event(), threading.Event()

    def other():
        with fastdet.backend("triton"):
            entered.set()
            left.wait(10)
            return fastdet.get_backend()

    out = []
    thread = threading.Thread(target=lambda: out.append(other()))
    with fastdet.backend("torch"):
        thread.start()
        entered.wait(10)
        assert fastdet.get_backend() == "torch"
    left.set()
    thread.join()
    assert out == ["triton"]
    assert fastdet.get_backend() == process_backend


def test_set_backend_is_for_all_threads_but_not_for_a_block(process_backend):
    fastdet.set_backend("torch")
    assert in_thread(fastdet.get_backend) == "torch"
    with fastdet.backend("triton"):
        fastdet.set_backend("auto")
        assert fastdet.get_backend() == "triton"
        assert in_thread(fastdet.get_backend) == "auto"
    assert fastdet.get_backend() == "auto"


def test_a_block_ends_with_an_exception_and_refuses_unknown_names(process_backend):
    with pytest.raises(RuntimeError, match="of the block"), fastdet.backend("torch"):
        raise RuntimeError("of the block")
    assert fastdet.get_backend() == process_backend
    with pytest.raises(ValueError, match=r"^backend: unknown backend 'cuda', expected one of"), \
            fastdet.backend("cuda"):
        pass
    with pytest.raises(ValueError, match=r"^set_backend: unknown backend 'cuda', expected one of"):
        fastdet.set_backend("cuda")
    assert fastdet.get_backend() == process_backend


@pytest.mark.skipif(not hasattr(torch._C, "_remove_obj_from_tls"), reason="an older torch")
def test_a_thread_of_the_backward_has_the_choice_of_its_caller(process_backend):
    """A GPU's backward runs in threads of autograd's; checkpointing computes forwards there."""
    def device_thread(context):
        torch._C._stash_obj_in_tls("context", context)  # as torch.autograd does
        try:
            return fastdet.get_backend()
        finally:
            torch._C._remove_obj_from_tls("context")

    with fastdet.backend("torch"):
        context = contextvars.copy_context()
    assert in_thread(lambda: device_thread(context)) == "torch"
    outside = contextvars.copy_context()
    assert in_thread(lambda: device_thread(outside)) == process_backend

    class Ask(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(torch._C._get_obj_in_tls("context").run(fastdet.get_backend))
            return grad

    seen = []
    x = torch.ones(1, requires_grad=True)
    with fastdet.backend("torch"):
        Ask.apply(x).backward()  # what stands in our test for autograd's own stash is true
    assert seen == ["torch"]


def test_compiled_code_follows_the_choice(process_backend):
    def choose(x):
        return x + use_triton("test", torch.device("meta"), "of a reason")

    def ask(x):
        return x + ("auto", "triton", "torch").index(fastdet.get_backend())

    def inside(x):
        with fastdet.backend("torch"):
            x = ask(x)
        return ask(x)

    zero = torch.zeros(())
    compiled = torch.compile(ask, fullgraph=True, backend="eager")
    fastdet.set_backend("auto")
    assert compiled(zero) == 0
    with fastdet.backend("torch"):
        assert compiled(zero) == 2
        assert in_thread(lambda: compiled(zero)) == 0
    with fastdet.backend("triton"):
        assert compiled(zero) == 1
    fastdet.set_backend("torch")
    assert compiled(zero) == 2
    with fastdet.backend("triton"):
        assert torch.compile(inside, fullgraph=True, backend="eager")(zero) == 3
        assert fastdet.get_backend() == "triton"
    with fastdet.backend("auto"):
        assert torch.compile(choose, fullgraph=True, backend="eager")(zero) == 0


def run_python(*arguments, **env):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, text=True, capture_output=True,
                          env={**os.environ, **env}, check=False)


def test_a_command_says_in_one_line_that_the_environment_is_wrong():
    done = run_python("-m", "fastdet", "--version", FASTDET_BACKEND="bogus")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("fastdet: error: FASTDET_BACKEND: unknown backend 'bogus', expected "
                           "one of auto, triton, torch\n")


@pytest.mark.parametrize("statement", ["import kernels", "from kernels.dispatch import backend"])
def test_there_is_one_kernels(statement):
    """A second copy would have a backend of its own."""
    done = run_python("-c", statement)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "ImportError: kernels is not a package of its own: import fastdet.kernels\n")


#: Settings in order, and whether an fp32 product may then use TF32.
TF32 = [
    ([], False),
    (["matmul.allow_tf32 = True"], True),
    (["matmul.allow_tf32 = True", "matmul.allow_tf32 = False"], False),
    (["torch.set_float32_matmul_precision('high')"], True),
    (["torch.set_float32_matmul_precision('medium')"], True),
    (["matmul.allow_tf32 = True", "torch.set_float32_matmul_precision('highest')"], False),
    (["matmul.fp32_precision = 'tf32'"], True),
    (["matmul.fp32_precision = 'ieee'"], False),
    (["torch.backends.fp32_precision = 'tf32'"], True),
    (["torch.backends.fp32_precision = 'ieee'"], False),
    (["torch.backends.fp32_precision = 'tf32'", "matmul.fp32_precision = 'ieee'"], False),
    (["torch.backends.fp32_precision = 'tf32'", "matmul.allow_tf32 = False"], False),
    (["torch.backends.fp32_precision = 'ieee'", "matmul.allow_tf32 = True"], True),
    (["torch.set_float32_matmul_precision('high')", "matmul.fp32_precision = 'ieee'"], False),
    (["matmul.fp32_precision = 'tf32'", "torch.set_float32_matmul_precision('highest')"], False),
]


def test_every_setting_of_tf32_is_honoured():
    code = f"""
import os
import torch
from fastdet.kernels.launch import dot_precision
matmul = torch.backends.cuda.matmul
wrong = []
for statements, allowed in {TF32!r}:
    if not hasattr(matmul, "fp32_precision") and "fp32_precision" in str(statements):
        continue
    if os.fork() == 0:  # the settings as they are at import, once for each case
        for statement in statements:
            exec(statement)
        half = dot_precision(torch.float16), dot_precision(torch.bfloat16)
        got = dot_precision(torch.float32), *half
        os._exit(got != ("tf32" if allowed else "ieee", "ieee", "ieee"))
    if os.wait()[1]:
        wrong.append(statements)
assert not wrong, wrong
"""
    done = run_python("-W", "ignore", "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("capability", "version", "reason"), [
    ((7, 5), (3, 9, 0), "the GPU has compute capability 7.5, the kernels need 8.0"),
    ((8, 6), (3, 3, 0), None), ((12, 0), (3, 3, 1), None), ((12, 0), (3, 9, 0), None),
    ((12, 0), (3, 3, 0), "triton 3.3.0 makes no matrix products for compute capability 12, "
     "triton 3.3.1 does")])
def test_what_a_gpu_and_a_triton_cannot_do_together(monkeypatch, capability, version, reason):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(dispatch, "_TRITON_VERSION", version)
    assert dispatch.device_reason(torch.device("cuda")) == reason
