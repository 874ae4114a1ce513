"""A detector whose weights lie in parts on all processes: PyTorch's FSDP2, for training.

What is sharded on its own are the blocks of the backbone, of the neck and of transformers, which
every forward calls once and in one order; all processes gather a block's weights where it begins.
The heads are one group that is gathered for the whole step, since whether they are called can
depend on an image, and a process that does not call one would let the others wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from fastdet.cnn.bricks.transformer import TransformerLayerSequence
from fastdet.mmcv.parallel import scatter_kwargs
from fastdet.mmcv.runner.hooks import HOOKS, CheckpointHook

from .eval_hooks import DistEvalHook

__all__ = ["ShardedCheckpointHook", "ShardedEvalHook", "check_fsdp", "shard_detector",
           "shard_optimizer"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
#: Methods beside ``forward`` that blocks are called by.
_METHODS = ("rfp_forward",)


def check_fsdp(cfg: Any) -> None:
    """Refuse what cannot be trained so.

    Raises:
        ValueError: a setting of the config does not go with shards.
    """
    if cfg.get("fp16") is not None:
        raise ValueError("fsdp and fp16 cannot be combined; bf16=True trains in half precision")
    if cfg.get("find_unused_parameters", False):
        raise ValueError("fsdp and find_unused_parameters=True cannot be combined: a process that "
                         "leaves parameters out would let the others wait")
    saving = cfg.get("checkpoint_config") or {}
    if not isinstance(saving, dict) or saving.get("type", "CheckpointHook") != "CheckpointHook":
        raise ValueError("fsdp saves by a CheckpointHook of its own, got checkpoint_config "
                         f"{saving!r:.200}")
    for hook in cfg.get("custom_hooks") or ():
        if isinstance(hook, dict) and hook.get("type") == "SyncNormHook":
            raise ValueError("fsdp and the hook SyncNormHook cannot be combined: it averages whole "
                             "weights; SyncBN goes with both")


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The modules below one that are repeated in it and have parts of their own."""
    found: list[nn.Module] = []
    for child in module.children():
        below = _blocks(child)
        if below:
            found += below
        elif isinstance(module, _CONTAINERS) and not isinstance(child, _CONTAINERS) \
                and any(True for _ in child.children()) and any(True for _ in child.parameters()):
            found.append(child)
    return found


def _units(model: nn.Module) -> list[nn.Module]:
    """What is sharded on its own; see above."""
    always = [part for name in ("backbone", "neck") if (part := getattr(model, name, None))]
    always += [m for m in model.modules() if isinstance(m, TransformerLayerSequence)]
    return list(dict.fromkeys(block for part in always for block in _blocks(part)))


def shard_detector(model: nn.Module, device: str, local_rank: int,
                   reshard_after_forward: bool = True) -> nn.Module:
    """Shard a detector over all processes, in place, and let its steps take batches of a loader.

    The weights and buffers of rank 0 are everyone's. State dicts that are whole can be loaded.

    Args:
        model: on the CPU.
        device: ``'cuda'`` or ``'cpu'``.
        local_rank: the GPU of this process.
        reshard_after_forward: give a block's weights back after its forward, and gather them again
            for its backward: less memory, more messages.
    """
    where = torch.device(device, local_rank) if device == "cuda" else torch.device(device)
    for tensor in chain(model.parameters(), model.buffers()):
        shared = tensor.data.to(where)
        dist.broadcast(shared, 0)
        tensor.data.copy_(shared)
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for block in _units(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward)
        for name in _METHODS:
            if hasattr(block, name):
                register_fsdp_forward_method(block, name)
    fully_shard(model, mesh=mesh)
    model.to(where)
    for module in model.modules():
        module.register_load_state_dict_pre_hook(_take_shards)
    _take_containers(model, local_rank if device == "cuda" else -1)
    return model


def _like(value: Any, own: Any) -> Any:
    """A whole tensor as this process's shard, where ``own`` is one."""
    if not isinstance(own, DTensor) or isinstance(value, DTensor) or value.shape != own.shape:
        return value
    # Every process has read the whole: none is to be sent.
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements,
                             src_data_rank=None)


def _take_shards(module: nn.Module, state_dict: Any, prefix: str, *args: Any) -> None:
    """Of a state dict that is loaded, keep the shards."""
    for name, own in chain(module._parameters.items(), module._buffers.items()):
        if prefix + name in state_dict:
            state_dict[prefix + name] = _like(state_dict[prefix + name], own)


def _take_containers(model: Any, device_id: int) -> None:
    """Let a model take a loader's batches, as the data-parallel wrappers do."""
    def unpacked(args: Any, kwargs: Any) -> tuple[Any, Any]:
        inputs, named = scatter_kwargs(args, kwargs, [device_id])
        return (inputs[0] if inputs else ()), (named[0] if named else {})

    def stepping(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = unpacked(args, kwargs)
            return step(*args, **kwargs)
        return run

    for name in ("train_step", "val_step"):
        setattr(model, name, stepping(getattr(model, name)))
    model.register_forward_pre_hook(lambda module, args, kwargs: unpacked(args, kwargs),
                                    prepend=True, with_kwargs=True)


def shard_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer of sharded parameters load a state dict that is whole."""
    def hook(own: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        parameters = [p for group in own.param_groups for p in group["params"]]
        state = dict(state_dict["state"])
        for i, parameter in zip(ids, parameters):
            if i in state:
                state[i] = {k: _like(v, parameter) if isinstance(v, torch.Tensor) else v
                            for k, v in state[i].items()}
        return {**state_dict, "state": state}

    optimizer.register_load_state_dict_pre_hook(hook)


def _whole(value: Any) -> Any:
    """A tensor whole, on the CPU of rank 0; every process has to call it."""
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor()
    return full.cpu() if dist.get_rank() == 0 else None


@contextmanager
def _gathered(runner: Any) -> Iterator[None]:
    """A block in which the state dicts of model and optimizers are whole on rank 0.

    Every process has to enter it. It holds a copy of all in the memory of rank 0's host.
    """
    optimizers = runner.optimizer.values() if isinstance(runner.optimizer, dict) else [
        runner.optimizer]
    weights = {k: _whole(v) for k, v in runner.model.state_dict().items()}
    states = [{i: {k: _whole(v) for k, v in own.items()}
               for i, own in optimizer.state_dict()["state"].items()} for optimizer in optimizers]
    with ExitStack() as stack:
        stack.enter_context(_removed(runner.model.register_state_dict_post_hook(
            lambda module, state_dict, prefix, metadata: state_dict.update(
                (prefix + k, v) for k, v in weights.items()))))
        for optimizer, state in zip(optimizers, states):
            stack.enter_context(_removed(optimizer.register_state_dict_post_hook(
                lambda own, state_dict, state=state: {**state_dict, "state": state})))
        yield


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


@HOOKS.register_module()
class ShardedCheckpointHook(CheckpointHook):
    """:class:`fastdet.mmcv.runner.CheckpointHook` of a sharded model: whole checkpoints."""

    def _save_checkpoint(self, runner: Any) -> None:
        with _gathered(runner):
            super()._save_checkpoint(runner)  # on rank 0 alone


class ShardedEvalHook(DistEvalHook):
    """:class:`DistEvalHook` of a sharded model: the best checkpoint is whole."""

    def _do_evaluate(self, runner: Any) -> None:
        with _gathered(runner) if self.save_best else ExitStack():
            super()._do_evaluate(runner)
        # Hooks may change the weights before the next forward, which is to gather them anew.
        for module in runner.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
