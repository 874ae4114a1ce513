"""DistributedDataParallel and FSDP2 on two processes give the gradients of one process.

Two gloo processes each take half of a batch; their averaged gradients are those of the whole batch
where no layer mixes the images of a batch: batch norm in eval mode, layer norm.
"""

import copy
import gc
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from fastdet.models import FPN, ResNet, SwinTransformer

WORLD = 2
RATE = 0.1

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(),
                       reason="this torch has no gloo"),
]


def detector(name):
    """A backbone with its pyramid, the same weights in every process."""
    torch.manual_seed(1)
    if name == "swin":
        backbone = SwinTransformer(embed_dims=8, depths=(2, 2), num_heads=(1, 2), strides=(4, 2),
                                   window_size=4, out_indices=(0, 1), drop_path_rate=0.0)
        return nn.Sequential(backbone, FPN([8, 16], 8, 2)).train()
    backbone = ResNet(18, base_channels=8, stem_channels=8, norm_eval=True, frozen_stages=1)
    return nn.Sequential(backbone, FPN([8, 16, 32, 64], 8, 4)).train()


def images():
    return torch.randn(2 * WORLD, 3, 40, 56, generator=torch.Generator().manual_seed(2))


def step(model, batch):
    """One step of gradient descent; the loss is a mean over images."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    loss = sum(level.square().flatten(1).mean(1).mean() for level in model(batch))
    loss.backward()
    optimizer.step()
    return loss.detach()


def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard(model):
    """FSDP2 as a trainer applies it: the parts first, then the whole."""
    mesh = init_device_mesh("cpu", (WORLD,))
    for part in model:
        fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def compare(rank, name, method):
    """One step on a process' share of the batch, and one alone on the whole, which must agree."""
    whole = detector(name)
    model = copy.deepcopy(whole)
    model = DistributedDataParallel(model) if method == "ddp" else shard(model)
    loss = step(model, images().chunk(WORLD)[rank])
    dist.all_reduce(loss)
    want = step(whole, images())
    torch.testing.assert_close(loss / WORLD, want)
    got = dict((model.module if method == "ddp" else model).named_parameters())
    trained = 0
    for key, parameter in whole.named_parameters():
        mine = got[key]
        assert (mine.grad is None) == (parameter.grad is None), key
        if parameter.grad is not None:
            trained += 1
            torch.testing.assert_close(full(mine.grad), parameter.grad, atol=1e-6, rtol=1e-4,
                                       msg=lambda m, key=key: f"gradient of {key}: {m}")
        torch.testing.assert_close(full(mine.detach()), parameter.detach(), atol=1e-6,
                                   rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")
    assert trained > 10


def work(rank, store, name, method):
    """One of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD,
                            timeout=timedelta(seconds=120))
    try:
        compare(rank, name, method)
        # A sharded model is full of cycles and holds the group, whose threads would then outlive
        # the interpreter: they abort where they ask for it in its last moments.
        gc.collect()
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("method", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", ["resnet", "swin"])
def test_two_processes_step_like_one(name, method, tmp_path):
    mp.spawn(work, args=(tmp_path / "store", name, method), nprocs=WORLD)
