"""A model over a data set, in one process and in two."""

import pytest
import torch
from torch import distributed, nn
from torch import multiprocessing as mp

pytest.importorskip("fastdet.mmcv", reason="needs the extra mmcv")
from fastdet.mmcv.engine import multi_gpu_test, single_gpu_test
from fastdet.mmcv.runner.dist_utils import allreduce_grads, allreduce_params, get_dist_info


class Double(nn.Module):
    def forward(self, x, return_loss):
        assert not return_loss
        assert not self.training
        return [2 * int(v) for v in x]


class Loader(list):
    dataset = range(5)


def test_one_process_gives_a_result_for_each_sample():
    batches = Loader([{"x": torch.tensor([0, 1, 2])}, {"x": torch.tensor([3, 4])}])
    assert single_gpu_test(Double(), batches) == [0, 2, 4, 6, 8]
    assert multi_gpu_test(Double(), batches) == [0, 2, 4, 6, 8]
    assert get_dist_info() == (0, 1)


def _work(rank, folder):
    store = distributed.FileStore(f"{folder}/store", 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    # The sampler dealt out 0 2 4 and 1 3 0: the last is there to fill up.
    mine = Loader({"x": torch.tensor([i])} for i in ([0, 2, 4], [1, 3, 0])[rank])
    for tmpdir, collect in ((None, False), (f"{folder}/parts", False), (None, True)):
        out = multi_gpu_test(Double(), mine, tmpdir, collect)
        assert out == ([0, 2, 4, 6, 8] if rank == 0 else None)
    params = [nn.Parameter(torch.full((3,), float(rank))), nn.Parameter(torch.ones(2, 2) * rank)]
    for p in params:
        p.grad = torch.full_like(p, 4.0 * rank)
    allreduce_grads(params, bucket_size_mb=1)
    allreduce_params(params, coalesce=False)
    assert all(torch.all(p.grad == 2) and torch.all(p == 0.5) for p in params)
    distributed.destroy_process_group()


def test_two_processes_put_their_results_together(tmp_path):
    mp.start_processes(_work, (str(tmp_path),), nprocs=2, start_method="fork")
    assert not (tmp_path / "parts").exists()
