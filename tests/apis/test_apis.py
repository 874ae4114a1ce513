"""A small detector trained, resumed, tested and used, from Python and from the command line."""

import asyncio
import json
import shutil

import numpy as np
import pytest
import torch

cv2 = pytest.importorskip("cv2", reason="needs the extra mmcv")
pytest.importorskip("pycocotools", reason="needs the extra mmcv")

from fastdet.apis import (  # noqa: E402
    async_inference_detector,
    inference_detector,
    init_detector,
    show_result_pyplot,
)
from fastdet.apis.utils import (  # noqa: E402
    AvoidCUDAOOM,
    AvoidOOM,
    compat_cfg,
    find_latest_checkpoint,
    replace_cfg_vals,
    split_batch,
    update_data_root,
)
from fastdet.cli import main  # noqa: E402
from fastdet.cli.demo import CLASSES, _config, draw_set  # noqa: E402
from fastdet.core.visualization import get_palette, imshow_det_bboxes  # noqa: E402
from fastdet.utils import Config  # noqa: E402


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a config, drawn pictures and an epoch's checkpoint."""
    root = tmp_path_factory.mktemp("job")
    draw_set(root / "train", 8, 0)
    draw_set(root / "val", 3, 1)
    cfg = _config(root, 1, 0)
    cfg["data"].pop("train_dataloader")
    cfg["data"].pop("val_dataloader")
    cfg["data"].update(samples_per_gpu=4, workers_per_gpu=0)
    cfg["model"]["test_cfg"]["score_thr"] = 0.001
    for key in ("seed", "device", "gpu_ids", "work_dir"):
        cfg.pop(key)
    cfg.update(checkpoint_config=dict(interval=1), evaluation=dict(interval=1, metric="bbox"),
               log_config=dict(interval=1, hooks=[dict(type="TextLoggerHook")]))
    (root / "tiny.py").write_text("".join(f"{k} = {v!r}\n" for k, v in cfg.items()))
    assert main(["train", str(root / "tiny.py"), "--work-dir", str(root / "work"), "--seed", "1",
                 "--device", "cpu"]) == 0
    return root


@pytest.fixture
def detector(trained):
    return init_detector(trained / "tiny.py", str(trained / "work/epoch_1.pth"), "cpu")


def logged(folder):
    lines = (line for file in sorted(folder.glob("*.log.json"))
             for line in file.read_text().splitlines())
    return [json.loads(line) for line in lines]


def test_training_writes_and_resumes(trained):
    work = trained / "work"
    assert find_latest_checkpoint(str(work)) == str(work / "latest.pth")
    meta = torch.load(work / "epoch_1.pth", weights_only=True)["meta"]
    assert tuple(meta["CLASSES"]) == CLASSES
    entries = logged(work)
    assert [e["iter"] for e in entries if e.get("mode") == "train"] == [1, 2]
    assert any("bbox_mAP" in e for e in entries if e.get("mode") == "val")
    assert main(["train", str(trained / "tiny.py"), "--work-dir", str(work), "--seed", "1",
                 "--resume-from", str(work / "epoch_1.pth"), "--device", "cpu", "--no-validate",
                 "--cfg-options", "runner.max_epochs=2"]) == 0
    assert (work / "epoch_2.pth").exists()


def test_detections_of_one_image_many_and_arrays(trained, detector, tmp_path):
    path = str(trained / "val/0000.png")
    one = inference_detector(detector, path)
    assert [b.shape[1] for b in one] == [5, 5, 5]
    many = inference_detector(detector, [path, str(trained / "val/0001.png")])
    array = inference_detector(detector, cv2.imread(path))
    later = asyncio.run(async_inference_detector(detector, path))
    for other in (many[0], array, later[0]):
        for a, b in zip(one, other):
            np.testing.assert_allclose(a, b, atol=1e-3)
    assert inference_detector(detector, []) == []
    assert sum(len(b) for b in one)
    drawn = detector.show_result(path, one, score_thr=0.0)
    assert drawn.shape == (128, 128, 3)
    assert (drawn != cv2.imread(path)).any()
    show_result_pyplot(detector, path, one, score_thr=0.0, out_file=str(tmp_path / "a/b.png"))
    assert (tmp_path / "a/b.png").exists()


def test_detect_and_test_commands(trained, tmp_path, capsys):
    config, weights = str(trained / "tiny.py"), str(trained / "work/epoch_1.pth")
    assert main(["detect", str(trained / "val"), "--config", config, "--checkpoint", weights,
                 "--out", str(tmp_path / "out"), "--score-thr", "0.001", "--device", "cpu"]) == 0
    assert "[3/3] 0002.png:" in capsys.readouterr().out
    found = json.loads((tmp_path / "out/detections.json").read_text())
    images = json.loads((tmp_path / "out/images.json").read_text())
    assert {e["image_id"] for e in found} <= {i["id"] for i in images["images"]}
    assert [c["name"] for c in images["categories"]] == list(CLASSES)
    assert (tmp_path / "out/0001.png").exists()
    assert main(["test", config, weights, "--eval", "bbox", "--out", str(tmp_path / "r.pkl"),
                 "--show-dir", str(tmp_path / "shown"), "--device", "cpu"]) == 0
    assert "bbox_mAP_50: " in capsys.readouterr().out
    assert len(list((tmp_path / "shown").iterdir())) == 3
    assert (tmp_path / "r.pkl").exists()


def test_frames_are_in_the_order_of_their_numbers(trained, tmp_path, capsys):
    """One of them cannot be read: the others' results are there all the same."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in (10, 2, 1):
        shutil.copy(trained / "val/0000.png", frames / f"frame_{i}.png")
    (frames / "frame_3.png").write_bytes(b"no image")
    assert main(["detect", str(frames), "--config", str(trained / "tiny.py"), "--checkpoint",
                 str(trained / "work/epoch_1.pth"), "--out", str(tmp_path / "out"), "--device",
                 "cpu"]) == 2
    error = capsys.readouterr().err
    assert "frame_3.png: 8 bytes that OpenCV cannot decode" in error
    assert "1 of 4 files could not be read" in error
    images = json.loads((tmp_path / "out/images.json").read_text())["images"]
    assert [(i["id"], i["file_name"].rpartition("_")[2]) for i in images] == [
        (1, "1.png"), (2, "2.png"), (4, "10.png")]
    assert (tmp_path / "out/detections.json").exists()


def test_averages_beside_weights_do_not_hinder(trained, tmp_path, capsys):
    """A checkpoint of a training with ExpMomentumEMAHook has weights ``ema_...``, too."""
    checkpoint = torch.load(trained / "work/epoch_1.pth", weights_only=True)
    checkpoint["state_dict"]["ema_backbone_conv1_weight"] = torch.zeros(1)
    torch.save(checkpoint, tmp_path / "ema.pth")
    assert main(["test", str(trained / "tiny.py"), str(tmp_path / "ema.pth"), "--format-only",
                 "--show-dir", str(tmp_path / "shown"), "--show-score-thr", "0", "--device",
                 "cpu"]) == 0
    drawn, plain = (cv2.imread(str(folder / "0000.png"))
                    for folder in (tmp_path / "shown", trained / "val"))
    assert (drawn != plain).any()
    checkpoint["state_dict"]["head.weight"] = checkpoint["state_dict"].pop(
        "ema_backbone_conv1_weight")
    torch.save(checkpoint, tmp_path / "more.pth")
    assert main(["test", str(trained / "tiny.py"), str(tmp_path / "more.pth"), "--format-only",
                 "--device", "cpu"]) == 0
    assert "unexpected key in source state_dict: head.weight" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["detect", "no.png", "--config", "C", "--checkpoint", "W"], "no image file no.png"),
    (["detect", "C", "--config", "C", "--checkpoint", "W"], "cannot read the image"),
    (["detect", "V", "--config", "no.py", "--checkpoint", "W"], "no file no.py"),
    (["detect", "V", "--config", "C", "--checkpoint", "C"], "not a checkpoint"),
    (["test", "C", "W"], "say what to do with the results"),
    (["test", "C", "W", "--eval", "bbox", "--format-only"], "cannot be given together"),
    (["test", "C", "no.pth", "--eval", "bbox"], "no checkpoint no.pth"),
    (["train", "no.py"], "no config file no.py"),
    (["train", "C", "--cfg-options", "model.type=RetinaNett"], "did you mean RetinaNet"),
    (["train", "C", "--cfg-options", "data.train.ann_file=x.json"], "x.json"),
    (["train", "C", "--cfg-options", "model.pretrained=torchvision://resnet18"],
     "--allow-download"),
    (["train", "C", "--auto-scale-lr"], "base_batch_size"),
    (["detect", "V", "--config", "C", "--checkpoint", "W", "--out", "V"], "would overwrite"),
    (["detect", "V", "--config", "C", "--checkpoint", "W", "--score-thr", "nan"], "from 0 to 1"),
    (["detect", "V", "--config", "C", "--checkpoint", "W", "--out", "C"], "cannot make the folder"),
    (["detect", "V", "--config", "C", "--checkpoint", "W", "--cfg-options",
      "model.bbox_head.num_classes=7"], "not of this detector: size mismatch for bbox_head.retina"),
    (["detect", "V", "--config", "C", "--checkpoint", "W", "--cfg-options", "data.test=None"],
     "no data.test.pipeline"),
    (["test", "C", "W", "--eval", "mIoU"], "--eval mIoU: CocoDataset knows bbox, segm"),
    (["test", "C", "W", "--out", "C/r.pkl"], "cannot make the folder"),
    (["test", "C", "W", "--eval", "bbox", "--cfg-options", "data.test.img_prefix=/none"],
     "No such file or directory: '/none/0000.png'"),
    (["train", "C", "--cfg-options", "optimizer.lr=1e30"], "the loss is not finite in iteration 2: "
     "loss_cls, loss_bbox, loss; the batch's images are"),
    (["train", "C", "--cfg-options", "model.bbox_head.num_classes=2"], "a class from 0 to 1"),
    (["train", "C", "--cfg-options", "data.train.ann_file=E"], "no image to train on"),
    (["train", "C", "--cfg-options", "optimizer.type=SDG"], "did you mean SGD"),
    (["train", "C", "--cfg-options", "data.workers_per_gpu=1", "data.train.img_prefix=/none"],
     "FileNotFoundError: [Errno 2] No such file or directory: '/none/"),
])
def test_what_is_wrong_is_told_in_one_line(trained, arguments, message, capsys, tmp_path,
                                           monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty.json"
    annotations = json.loads((trained / "train/annotations.json").read_text())
    empty.write_text(json.dumps({**annotations, "annotations": []}))
    paths = {"C": str(trained / "tiny.py"), "W": str(trained / "work/epoch_1.pth"),
             "V": str(trained / "val"), "C/r.pkl": str(trained / "tiny.py/r.pkl"),
             "data.train.ann_file=E": f"data.train.ann_file={empty}"}
    extra = [] if "--eval" not in arguments and arguments[0] == "test" else ["--device", "cpu"]
    assert main([*(paths.get(a, a) for a in arguments), *extra]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("fastdet: error: ")
    assert message in error


def test_old_forms_of_configs(monkeypatch):
    cfg = Config(dict(total_epochs=3, data_root="data/coco/", name="${data.train.type}",
                      data=dict(imgs_per_gpu=2, workers_per_gpu=1,
                                train=dict(type="CocoDataset", ann_file="data/coco/a.json"),
                                val=dict(samples_per_gpu=4), test=[dict(), dict()])))
    with pytest.warns(UserWarning, match=r"deprecated|runner"):
        new = compat_cfg(cfg)
    assert new.data.train_dataloader == dict(samples_per_gpu=2, workers_per_gpu=1)
    assert new.data.val_dataloader == dict(samples_per_gpu=4, workers_per_gpu=1)
    assert new.runner == dict(type="EpochBasedRunner", max_epochs=3)
    assert replace_cfg_vals(cfg).name == "CocoDataset"
    monkeypatch.setenv("MMDET_DATASETS", "/mnt/")
    update_data_root(cfg, logger="silent")
    assert cfg.data.train.ann_file == "/mnt/a.json"


def test_batches_of_two_kinds():
    groups = split_batch(torch.arange(3), [dict(tag="a"), dict(tag="b"), dict(tag="a")],
                         dict(gt_labels=["x", "y", "z"]))
    assert list(groups) == ["a", "b"]
    assert groups["a"]["img"].tolist() == [0, 2]
    assert groups["a"]["gt_labels"] == ["x", "z"]
    assert groups["b"]["img_metas"] == [dict(tag="b")]


def test_a_function_out_of_memory_runs_with_less():
    tries = []

    def hungry(x):
        tries.append(x.dtype)
        if len(tries) < 3:
            raise torch.OutOfMemoryError
        return {"double": 2 * x}

    out = AvoidCUDAOOM.retry_if_cuda_oom(hungry)(torch.ones(2))["double"]
    assert tries == [torch.float32, torch.float32, torch.float16]
    assert out.dtype == torch.float32
    assert out.tolist() == [2, 2]
    tries.clear()
    AvoidOOM(test=True).retry_if_cuda_oom(lambda x: tries.append(x.dtype))(torch.ones(1))
    assert tries == [torch.float16, torch.float32]
    with pytest.raises(ValueError, match="no tensor among its arguments"):
        AvoidOOM(test=True).retry_if_cuda_oom(len)([1])


def test_pictures_and_palettes():
    img = np.full((40, 60, 3), 128, np.uint8)
    boxes, labels = np.array([[5, 5, 30, 30, 0.9], [8, 8, 20, 20, 0.1]]), np.array([1, 0])
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 10:20, 10:20] = True
    drawn = imshow_det_bboxes(img, boxes, labels, masks, score_thr=0.3, show=False,
                              mask_color=(255, 0, 0))
    assert drawn.shape == img.shape
    assert drawn[15, 15, 2] > 200  # red, in BGR
    assert (img == 128).all()
    assert (drawn[35:, 40:] == 128).all()
    nothing = imshow_det_bboxes(img, np.zeros((0, 5)), np.zeros(0, int), show=False)
    assert (nothing == img).all()
    assert get_palette("random", 2) == [(102, 179, 92), (14, 106, 71)]
    assert get_palette("coco", 80)[1] == get_palette(((1, 2, 3), (119, 11, 32)), 2)[1]
    with pytest.raises(ValueError, match="20 colours for 21"):
        get_palette("voc", 21)
    with pytest.raises(ValueError, match=r"labels \[n\]"):
        imshow_det_bboxes(img, boxes, None, show=False)
