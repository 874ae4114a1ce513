"""A detector trained in shards (FSDP2) is the one that DDP trains, and so are its checkpoints."""

import gc
import json
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

pytest.importorskip("cv2", reason="needs the extra mmcv")
pytest.importorskip("pycocotools", reason="needs the extra mmcv")

from fastdet.apis import init_random_seed, set_random_seed, train_detector
from fastdet.apis.fsdp import _units, check_fsdp
from fastdet.cli import main
from fastdet.cli.demo import _config, draw_set
from fastdet.datasets import build_dataset
from fastdet.models import build_detector
from fastdet.runner import load_checkpoint
from fastdet.utils import Config

WORLD = 2
#: Settings of each run, and the checkpoint that it goes on from.
RUNS = {"ddp": ({}, None), "fsdp": (dict(fsdp=True), None),
        "ddp_resumed": ({}, "fsdp/epoch_1.pth"),
        "fsdp_resumed": (dict(fsdp=dict(reshard_after_forward=False)), "ddp/epoch_1.pth"),
        "ddp_bf16": (dict(bf16=True), None), "fsdp_bf16": (dict(bf16=True, fsdp=True), None)}


def config(root, name):
    settings, resume = RUNS[name]
    cfg = _config(root, 1 if name.endswith("bf16") else 2, 0)
    for step in cfg["data"]["train"]["pipeline"]:
        if step["type"] == "RandomFlip":
            step["flip_ratio"] = 0.0
    loader = dict(samples_per_gpu=2, workers_per_gpu=0, persistent_workers=False)
    cfg["model"]["test_cfg"]["score_thr"] = 0.001
    cfg["data"].update(train_dataloader=loader, val_dataloader=loader)
    resume = resume and str(root / resume)
    cfg.update(work_dir=str(root / name), checkpoint_config=dict(interval=1), gpu_ids=[0, 1],
               custom_hooks=[dict(type="ExpMomentumEMAHook", total_iter=3, resume_from=resume,
                                  priority=49)],
               evaluation=dict(interval=1, metric="proposal", save_best="AR@100"),
               log_config=dict(interval=1, hooks=[dict(type="TextLoggerHook")]),
               device="cpu", resume_from=resume, **settings)
    return Config(cfg)


def work(rank, root):
    """One of the processes, through all runs."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank,
                            world_size=WORLD, timeout=timedelta(seconds=240))
    try:
        for name in RUNS:
            cfg = config(root, name)
            set_random_seed(init_random_seed(3 + rank, "cpu"))  # weights are those of rank 0
            model = build_detector(cfg.model)
            model.init_weights()
            validate = not name.endswith("bf16")
            train_detector(model, [build_dataset(cfg.data.train)], cfg, distributed=True,
                           validate=validate, timestamp=name)
            if name.startswith("fsdp"):  # a process holds half of what is trained
                held = sum(p.to_local().numel() for p in model.parameters())
                assert held < 0.55 * sum(p.numel() for p in model.parameters())
            del model
            gc.collect()
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    draw_set(folder / "train", 8, 0)
    draw_set(folder / "val", 3, 1)
    mp.spawn(work, args=(folder,), nprocs=WORLD)
    return folder


def losses(run, epoch):
    lines = [json.loads(line) for path in run.glob("*.log.json")
             for line in path.read_text().splitlines()]
    return [line[key] for line in lines for key in ("loss_cls", "loss_bbox", "grad_norm")
            if line.get("mode") == "train" and line["epoch"] == epoch]


def assert_same(a, b, **tolerance):
    a, b = (torch.load(path, weights_only=True) for path in (a, b))
    assert list(a["state_dict"]) == list(b["state_dict"])
    torch.testing.assert_close(a["state_dict"], b["state_dict"], **tolerance)
    torch.testing.assert_close(a["optimizer"], b["optimizer"], **tolerance)
    assert a["meta"]["epoch"] == b["meta"]["epoch"]


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(),
                    reason="this torch has no gloo")
class TestRuns:
    def test_losses_and_checkpoints_are_those_of_ddp(self, root):
        for epoch in (1, 2):
            assert len(losses(root / "ddp", epoch)) == 6
            assert losses(root / "fsdp", epoch) == pytest.approx(losses(root / "ddp", epoch),
                                                                 rel=1e-4)
        assert_same(root / "ddp/epoch_2.pth", root / "fsdp/epoch_2.pth", atol=1e-5, rtol=1e-4)
        best = [path.name for path in sorted((root / "ddp").glob("best_*"))]
        assert best == [path.name for path in sorted((root / "fsdp").glob("best_*"))] != []

    def test_either_goes_on_from_the_other(self, root):
        for name in ("ddp_resumed", "fsdp_resumed"):
            assert losses(root / name, 1) == []
            assert losses(root / name, 2) == pytest.approx(losses(root / "ddp", 2), rel=1e-4)
            assert_same(root / name / "epoch_2.pth", root / "ddp/epoch_2.pth", atol=1e-5,
                        rtol=1e-4)

    def test_one_process_loads_its_checkpoints(self, root):
        cfg = config(root, "fsdp")
        model = build_detector(cfg.model)
        read = load_checkpoint(model, str(root / "fsdp/epoch_2.pth"))["state_dict"]
        own = {key: value for key, value in read.items() if not key.startswith("ema_")}
        assert own.keys() == model.state_dict().keys()
        assert all(map(torch.equal, own.values(), model.state_dict().values()))

    def test_half_precision(self, root):
        first = losses(root / "fsdp_bf16", 1)[:3]
        assert first == pytest.approx(losses(root / "ddp_bf16", 1)[:3], rel=1e-3)
        whole = losses(root / "ddp", 1)[:3]
        assert first == pytest.approx(whole, rel=0.03)
        assert first != pytest.approx(whole, rel=1e-5)


def test_blocks_are_what_every_forward_calls_once():
    from fastdet.models import DyHead, ResNet, SwinTransformer

    model = torch.nn.Module()
    model.backbone = ResNet(18, base_channels=4, stem_channels=4)
    assert [type(unit).__name__ for unit in _units(model)] == ["BasicBlock"] * 8
    model.backbone = SwinTransformer(embed_dims=8, depths=(2, 1), num_heads=(1, 2),
                                     strides=(4, 2), out_indices=(0, 1))
    assert [type(unit).__name__ for unit in _units(model)] == ["SwinBlock"] * 3
    model.neck = DyHead(16, 16, num_blocks=2)
    assert [type(unit).__name__ for unit in _units(model)][3:] == ["DyHeadBlock"] * 2


@pytest.mark.parametrize(("settings", "message"), [
    (dict(fp16=dict(loss_scale=1.0)), "bf16=True trains in half precision"),
    (dict(find_unused_parameters=True), "would let the others wait"),
    (dict(custom_hooks=[dict(type="SyncNormHook")]), "SyncNormHook"),
    (dict(checkpoint_config=dict(type="MyHook")), "CheckpointHook of its own.*MyHook"),
])
def test_what_does_not_go_with_shards(settings, message):
    with pytest.raises(ValueError, match=message):
        check_fsdp(settings)


def test_one_process_has_nothing_to_share_with(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    config(tmp_path, "ddp").dump("tiny.py")
    assert main(["train", "tiny.py", "--fsdp", "--device", "cpu"]) == 2
    assert "torchrun --nproc_per_node=N" in capsys.readouterr().err
