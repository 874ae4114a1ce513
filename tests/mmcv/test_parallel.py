"""Batches, and the wrappers of models."""

import pytest
import torch
from torch import distributed, nn

pytest.importorskip("fastdet.mmcv", reason="needs the extra mmcv")
from fastdet.mmcv.parallel import (
    DataContainer,
    MMDataParallel,
    MMDistributedDataParallel,
    collate,
    is_module_wrapper,
    scatter,
    scatter_kwargs,
)


def test_a_batch_of_samples():
    samples = [{"img": DataContainer(torch.full((1, 2 + i, 4 - i), float(i)), stack=True,
                                     padding_value=7),
                "meta": DataContainer({"i": i}, cpu_only=True),
                "boxes": DataContainer(torch.ones(i + 1, 4)), "n": i} for i in range(3)]
    batch = collate(samples, samples_per_gpu=2)
    assert [t.shape for t in batch["img"].data] == [(2, 1, 3, 4), (1, 1, 4, 2)]
    assert batch["img"].data[0][0, 0].tolist() == [[0] * 4, [0] * 4, [7] * 4]
    assert batch["img"].data[0][1, 0].tolist() == [[1, 1, 1, 7]] * 3
    assert batch["meta"].data == [[{"i": 0}, {"i": 1}], [{"i": 2}]]
    assert [[len(b) for b in group] for group in batch["boxes"].data] == [[1, 2], [3]]
    assert batch["n"].tolist() == [0, 1, 2]


def test_a_batch_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"last 2 dimensions .* \[\(1, 2, 2\), \(3, 2, 2\)\]"):
        collate([DataContainer(torch.ones(c, 2, 2), stack=True) for c in (1, 3)], 2)
    with pytest.raises(TypeError, match="must hold a tensor, got list"):
        collate([DataContainer([1], stack=True)])
    with pytest.raises(ValueError, match="pad_dims must be None, 1, 2 or 3, got 4"):
        DataContainer(1, pad_dims=4)
    with pytest.raises(AttributeError, match="no attribute size for type"):
        DataContainer([1]).size()


def test_a_batch_reaches_the_cpu():
    x = torch.arange(6).view(2, 3)
    got, = scatter({"a": x, "m": DataContainer([[1, 2]], cpu_only=True),
                    "b": DataContainer([[x, x]]), "s": "word", "e": []}, [-1])
    assert got["a"] is x or torch.equal(got["a"], x)
    assert got["m"] == [1, 2]
    assert len(got["b"]) == 2
    assert torch.equal(got["b"][1], x)
    assert (got["s"], got["e"]) == ("word", [])
    assert scatter_kwargs((), {"k": 1}, [-1]) == (((),), ({"k": 1},))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.spare = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x)

    def train_step(self, data, optimizer):
        return {"loss": self(data["x"]).sum(), "seen": data["m"], "optimizer": optimizer}

    def val_step(self, data, optimizer=None):
        return {"val": self(data["x"]).sum()}


BATCH = {"x": DataContainer([torch.ones(3, 2)], stack=True),
         "m": DataContainer([["a"]], cpu_only=True)}


@pytest.mark.parametrize("ids", [[0], [-1]])
def test_data_parallel_on_the_cpu(ids):
    if torch.cuda.is_available() and ids != [-1]:
        pytest.skip("there is a GPU")
    model = MMDataParallel(Model(), device_ids=ids)
    out = model.train_step(BATCH, "adam")
    assert out["seen"] == ["a"]
    assert out["optimizer"] == "adam"
    assert torch.equal(out["loss"], model.val_step(BATCH)["val"])
    assert torch.equal(model(torch.ones(3, 2)).sum(), out["loss"])
    assert is_module_wrapper(model)
    assert not is_module_wrapper(model.module)


def test_distributed_train_step_reduces_gradients(tmp_path):
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = MMDistributedDataParallel(Model(), device_ids=[0], broadcast_buffers=False,
                                          find_unused_parameters=True)
        reduced = []
        model.register_comm_hook(None, lambda _, bucket: (
            reduced.append(bucket.buffer().numel()), _done(bucket.buffer()))[1])
        out = model.train_step(BATCH, "sgd")
        out["loss"].backward()
        assert sum(reduced) == 6, "both layers' gradients go through the reducer"
        assert model.module.layer.weight.grad.tolist() == [[3, 3]]
        assert out["seen"] == ["a"]
        assert set(model.val_step(BATCH)) == {"val"}
        assert model(torch.ones(1, 2)).shape == (1, 1)
        assert is_module_wrapper(model)
        assert next(iter(model.state_dict())).startswith("module.")
    finally:
        distributed.destroy_process_group()


def _done(tensor):
    future = torch.futures.Future()
    future.set_result(tensor)
    return future
