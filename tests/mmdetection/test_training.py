"""MMDetection's own training on fastdet: evaluated, killed, resumed, on two processes, tested."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.mmdetection,
    pytest.mark.skipif(importlib.util.find_spec("mmdet") is None,
                       reason="MMDetection is not installed: pip install --no-deps mmdet==2.26.0"),
    pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="needs the extra mmcv"),
]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def start(folder, *args, processes=1):
    """Start a training; several processes by torchrun and ``fastdet run``, as the README says."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env.pop("WORLD_SIZE", None)
    several = [] if processes == 1 else [
        "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m",
        "fastdet", "run"]
    command = [sys.executable, "-W", "ignore", *several, str(HERE / "train_small.py"),
               str(folder / "data"), *map(str, args)]
    out = (folder / f"{Path(args[0]).name}.out").open("w+")
    return out, subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=env)


def finish(started, code=0):
    out, process = started
    try:
        process.wait(timeout=240)
        out.seek(0)
        assert process.returncode == code, out.read()[-3000:]
    finally:
        process.kill()
        process.wait()
        out.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of all runs by name."""
    folder = tmp_path_factory.mktemp("runs")
    sys.path.insert(0, str(HERE))
    try:
        from train_small import draw
    finally:
        sys.path.remove(str(HERE))
    draw(folder / "data")
    whole = start(folder, folder / "whole", "--test")
    killed = start(folder, folder / "killed", "--die")
    finish(killed, -signal.SIGKILL)
    resumed = start(folder, folder / "resumed", "--resume", folder / "killed" / "latest.pth")
    finish(whole)
    two = start(folder, folder / "two", processes=2)
    finish(resumed)
    finish(two)
    finish(start(folder, folder / "two_resumed", "--resume", folder / "two" / "epoch_1.pth",
                 processes=2))
    return {path.name: path for path in folder.iterdir() if path.is_dir()}


def log(run, mode, epoch=None):
    lines = [json.loads(line) for path in sorted(run.glob("*.log.json"))
             for line in path.read_text().splitlines()]
    return [line for line in lines if line.get("mode") == mode and epoch in (None, line["epoch"])]


def losses(run, epoch):
    return [{k: v for k, v in line.items() if "loss" in k or k in ("lr", "grad_norm")}
            for line in log(run, "train", epoch)]


def load(path):
    return torch.load(path, weights_only=True)


def test_a_training_learns_and_is_evaluated(runs):
    first, second = losses(runs["whole"], 1), losses(runs["whole"], 2)
    assert len(first) == len(second) == 8
    assert {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss"} <= set(first[0])
    assert sum(line["loss"] for line in second[-3:]) < 0.8 * sum(x["loss"] for x in first[:3])
    assert first[0]["lr"] == pytest.approx(0.002)
    assert first[-1]["lr"] == pytest.approx(0.02)
    assert second[-1]["lr"] == pytest.approx(0.002)
    scores = log(runs["whole"], "val")
    assert [(line["epoch"], line["iter"]) for line in scores] == [(1, 12), (2, 12)]
    assert all(0 <= line["bbox_mAP"] <= 1 for line in scores)


def test_its_checkpoints_say_where_they_come_from(runs):
    saved = load(runs["whole"] / "epoch_2.pth")
    assert set(saved) == {"meta", "state_dict", "optimizer"}
    assert (saved["meta"]["epoch"], saved["meta"]["iter"]) == (2, 16)
    assert saved["meta"]["CLASSES"] == ("box", "disc")
    best = saved["meta"]["hook_msgs"].get("best_ckpt", "")
    assert best == "" or Path(best).name.startswith("best_bbox_mAP_epoch_")
    assert (runs["whole"] / "latest.pth").resolve().name == "epoch_2.pth"


def test_a_checkpoint_is_tested_to_the_score_of_its_evaluation(runs):
    scores = json.loads((runs["whole"] / "scores.json").read_text())
    last = log(runs["whole"], "val", 2)[0]
    for name in ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75"):
        assert scores[name] == last[name]


def test_a_killed_training_leaves_whole_checkpoints(runs):
    assert not list(runs["killed"].glob("*.partial"))
    assert not (runs["killed"] / "epoch_2.pth").exists()
    assert (runs["killed"] / "latest.pth").resolve().name == "epoch_1.pth"
    assert load(runs["killed"] / "latest.pth")["meta"]["epoch"] == 1


@pytest.mark.parametrize(("uninterrupted", "resumed"), [
    ("whole", "resumed"), ("two", "two_resumed")], ids=["one process", "two processes"])
def test_a_resumed_training_goes_on_as_if_nothing_had_happened(runs, uninterrupted, resumed):
    assert losses(runs[resumed], 1) == []
    assert losses(runs[resumed], 2) == losses(runs[uninterrupted], 2) != []
    a, b = (load(runs[name] / "epoch_2.pth") for name in (uninterrupted, resumed))
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    moments = [[s["momentum_buffer"] for s in c["optimizer"]["state"].values()] for c in (a, b)]
    assert all(map(torch.equal, *moments))


def test_two_processes_share_the_data(runs):
    assert len(losses(runs["two"], 1)) == 4
    assert [line["epoch"] for line in log(runs["two"], "val")] == [1, 2]
