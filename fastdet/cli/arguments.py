"""Arguments of the commands that need a detector: they are read before any of it is imported."""

from __future__ import annotations

import argparse
from typing import Any

from fastdet.utils import DictAction

__all__ = ["add_demo", "add_detect", "add_test", "add_train"]


def _score(text: str) -> float:
    """A score, from 0 to 1."""
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"a score is a number from 0 to 1, got {text!r}")
    return score


def _job(parser: Any) -> None:
    """Arguments of every job on a config."""
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE",
                        help="settings in place of the config's, such as "
                        "data.samples_per_gpu=4")
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"),
                        help="what started the processes (default: pytorch under torchrun, else "
                        "none)")
    parser.add_argument("--device", choices=("cuda", "cpu"),
                        help="where to run (default: a GPU if there is one)")


def add_detect(commands: Any) -> None:
    """Arguments of ``fastdet detect``."""
    detect = commands.add_parser(
        "detect", help="find objects in images, draw them and write them down",
        description="Run a detector on images, or on all images in folders (video frames in the "
        "order of their names and numbers). Pictures with boxes, masks and labels go to --out, "
        "with detections.json in COCO's result format and images.json with the images and "
        "classes that it is about.",
        epilog="example: fastdet detect street.jpg --config mask_rcnn_r50_fpn_1x_coco.py "
        "--checkpoint mask_rcnn_r50_fpn_1x_coco.pth --out street")
    detect.add_argument("images", nargs="+", metavar="IMAGE", help="image files and folders")
    detect.add_argument("--config", metavar="FILE", required=True,
                        help="an MMDetection 2.x config; it is read, not executed")
    detect.add_argument("--checkpoint", metavar="FILE", required=True,
                        help="the detector's weights")
    detect.add_argument("--out", metavar="DIR", default="out/detect",
                        help="folder for the results (default: %(default)s)")
    detect.add_argument("--score-thr", type=_score, default=0.3, metavar="X",
                        help="what scores less is neither drawn nor written (default: "
                        "%(default)s)")
    detect.add_argument("--device", metavar="DEVICE",
                        help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    detect.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE",
                        help="settings in place of the config's")
    detect.set_defaults(module="detect")


def add_train(commands: Any) -> None:
    """Arguments of ``fastdet train``."""
    train = commands.add_parser(
        "train", help="train a detector by its config",
        description="Train a detector by an MMDetection 2.x config: its data sets, pipelines, "
        "optimizer, schedule and hooks. Checkpoints, the log and the config go to the work dir.",
        epilog="several GPUs: torchrun --nproc_per_node=8 -m fastdet train CONFIG")
    train.add_argument("config", metavar="CONFIG",
                       help="an MMDetection 2.x config; it is read, not executed")
    train.add_argument("--work-dir", metavar="DIR",
                       help="folder for the results (default: work_dirs/NAME OF THE CONFIG)")
    resume = train.add_mutually_exclusive_group()
    resume.add_argument("--resume-from", metavar="FILE", help="go on from a checkpoint")
    resume.add_argument("--auto-resume", action="store_true",
                        help="go on from the last checkpoint in the work dir, if there is one")
    train.add_argument("--no-validate", action="store_true", help="do not evaluate in between")
    train.add_argument("--seed", type=int, metavar="N", help="of everything that is drawn")
    train.add_argument("--deterministic", action="store_true",
                       help="only algorithms that give the same every time")
    train.add_argument("--auto-scale-lr", action="store_true",
                       help="scale the learning rate by the batch")
    train.add_argument("--fsdp", action="store_true",
                       help="shard weights, gradients and the optimizer's state over all "
                       "processes (FSDP2), for models that outgrow a GPU; checkpoints stay whole")
    train.add_argument("--bf16", action="store_true",
                       help="compute losses in bfloat16 (autocast); weights stay float32")
    train.add_argument("--allow-download", action="store_true",
                       help="read the pretrained weights that the config names from the network")
    _job(train)
    train.set_defaults(module="train")


def add_test(commands: Any) -> None:
    """Arguments of ``fastdet test``."""
    test = commands.add_parser(
        "test", help="evaluate a detector on its data set",
        description="Run a detector on the test set of its config, and evaluate, keep or draw what "
        "it finds.",
        epilog="example: fastdet test mask_rcnn.py mask_rcnn.pth --eval bbox segm")
    test.add_argument("config", metavar="CONFIG",
                      help="an MMDetection 2.x config; it is read, not executed")
    test.add_argument("checkpoint", metavar="CHECKPOINT", help="the detector's weights")
    test.add_argument("--eval", nargs="+", metavar="METRIC",
                      help="bbox, segm, proposal, proposal_fast for COCO; PQ for its panoptic "
                      "form; cityscapes; mAP, recall for VOC; mAP for Open Images")
    test.add_argument("--eval-options", nargs="+", action=DictAction, metavar="KEY=VALUE",
                      help="for the data set's evaluate, such as classwise=True")
    test.add_argument("--format-only", action="store_true",
                      help="write results for a benchmark's server; say where with "
                      "--eval-options jsonfile_prefix=FILES")
    test.add_argument("--out", metavar="FILE.pkl", help="write the results to a file")
    test.add_argument("--show-dir", metavar="DIR", help="draw every result into a folder")
    test.add_argument("--show-score-thr", type=_score, default=0.3, metavar="X",
                      help="what scores less is not drawn (default: %(default)s)")
    test.add_argument("--gpu-collect", action="store_true",
                      help="gather results by the process group rather than by files")
    test.add_argument("--tmpdir", metavar="DIR", help="a folder that all processes reach")
    _job(test)
    test.set_defaults(module="test")


def add_demo(commands: Any) -> None:
    """Arguments of ``fastdet demo``."""
    demo = commands.add_parser(
        "demo", help="train a small detector on drawn shapes, and show what it finds",
        description="Draw pictures of circles, squares and triangles, train a small RetinaNet on "
        "them (about a minute on two CPU cores), print its mAP before and after, and draw what it "
        "finds in pictures that it has not seen (detections.png).")
    demo.add_argument("--epochs", type=int, default=12, metavar="N",
                      help="passes over the 400 training pictures (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, metavar="N",
                      help="of the pictures and the training (default: %(default)s)")
    demo.add_argument("--out", metavar="DIR", default="out/demo",
                      help="folder for the results (default: %(default)s)")
    demo.set_defaults(module="demo")
