"""``fastdet detect``: what a detector finds in images."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from fastdet.cli.console import note, warn
from fastdet.cli.errors import CliError, first_line, require
from fastdet.cli.job import load_weights, output_folder, quiet
from fastdet.cli.model import USER_ERRORS
from fastdet.utils import ConfigError

__all__ = ["run"]

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
#: The numbers up to 90 that are no class of COCO.
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def _order(path: Path) -> list[Any]:
    """A name by its words and numbers: frame 10 comes after frame 2."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part)
            for part in re.split(r"(\d+)", path.name)]


def _files(given: list[str]) -> list[Path]:
    """Image files, those of folders in the order of their names and of the numbers in them."""
    files: list[Path] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = sorted((p for p in path.iterdir() if p.suffix.lower() in ENDINGS), key=_order)
            if not inside:
                raise CliError(f"the folder {name} holds no image ({', '.join(ENDINGS)})")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise CliError(f"there is no image file {name}")
    return files


def _model(args: argparse.Namespace) -> Any:
    from fastdet.apis import init_detector
    from fastdet.core.evaluation import get_classes

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    for name in (args.config, args.checkpoint):
        if not Path(name).is_file():
            raise CliError(f"there is no file {name}")
    try:
        with quiet():
            model: Any = init_detector(args.config, None, "cpu", args.cfg_options)
    except ConfigError as e:
        raise CliError(first_line(e)) from None
    except (*USER_ERRORS,) as e:
        raise CliError(f"the detector of {args.config} cannot be built: {first_line(e)}") from e
    if not ((model.cfg.get("data") or {}).get("test") or {}).get("pipeline"):
        raise CliError(f"{args.config} has no data.test.pipeline, which prepares the images")
    meta = load_weights(model, args.checkpoint)
    if not meta.get("CLASSES"):
        warn(f"{args.checkpoint} does not name its classes; COCO's are taken")
    model.CLASSES = meta.get("CLASSES") or get_classes("coco")
    try:
        return model.to(device)
    except (*USER_ERRORS,) as e:
        raise CliError(f"--device {device}: {first_line(e)}") from e


def _categories(classes: Any) -> list[dict[str, Any]]:
    """Classes with ids: COCO's own where they are COCO's, else from 1 on."""
    from fastdet.core.evaluation import coco_classes

    names = list(classes)
    is_coco = [name.replace(" ", "_") for name in names] == coco_classes()
    ids = [i for i in range(1, 91) if i not in _UNUSED] if is_coco else range(1, len(names) + 1)
    return [dict(id=i, name=name) for i, name in zip(ids, names)]


def _entries(result: Any, image_id: int, ids: list[int], score_thr: float
             ) -> list[dict[str, Any]]:
    """A result in COCO's format."""
    from fastdet.core.mask import encode_mask_results
    from fastdet.core.visualization.image import unpack

    boxes, labels, masks = unpack(result)
    found = []
    for i in (boxes[:, 4] > score_thr).nonzero()[0]:
        x1, y1, x2, y2, score = boxes[i].tolist()
        entry = dict(image_id=image_id, category_id=ids[labels[i]], score=score,
                     bbox=[x1, y1, x2 - x1, y2 - y1])
        if masks is not None:
            code = encode_mask_results([[masks[i]]])[0][0]
            entry["segmentation"] = {**code, "counts": code["counts"].decode()}
        found.append(entry)
    return found


class _Panoptic:
    """Panoptic results of all images: PNGs, and what COCO's result format says of them.

    Args:
        out: the folder of the results; the PNGs go to ``panoptic`` in it.
        ids: of the categories, by class.
    """

    def __init__(self, out: Path, ids: list[int]) -> None:
        self.folder = out / "panoptic"
        self.ids = ids
        self.records: list[dict[str, Any]] = []

    def add(self, pan: Any, image_id: int, name: str) -> list[int]:
        """Write an image's PNG; the categories of its segments."""
        from fastdet.core.evaluation.panoptic_utils import segments_of
        from fastdet.mmcv.image import imwrite

        png, segments = segments_of(pan, len(self.ids))
        file = f"{Path(name).stem}.png"
        imwrite(png[..., ::-1], str(self.folder / file))
        found = [dict(id=i, category_id=self.ids[label], area=area) for i, label, area in segments]
        self.records.append(dict(image_id=image_id, file_name=file, segments_info=found))
        return [segment["category_id"] for segment in found]


def _write(out: Path, name: str, value: Any) -> None:
    """Write JSON, whole or not at all."""
    part = out / f".{name}.part"
    part.write_text(json.dumps(value) + "\n")
    part.replace(out / name)


def run(args: argparse.Namespace) -> int:
    """Detect."""
    for module, package in (("cv2", "opencv-python-headless"), ("pycocotools", "pycocotools"),
                            ("matplotlib", "matplotlib")):
        require(module, package)
    import cv2

    from fastdet.apis import inference_detector
    from fastdet.mmcv.image import imread

    files = _files(args.images)
    out = Path(args.out)
    if any(out.resolve() == file.parent.resolve() for file in files):
        raise CliError(f"--out {out} holds the images themselves, which the pictures would "
                       "overwrite; give another folder")
    output_folder(out, "--out")
    model = _model(args)
    categories = _categories(model.CLASSES)
    ids = [c["id"] for c in categories]
    names = {c["id"]: c["name"] for c in categories}
    # Frames of several folders may have one name.
    told_apart = len({f.name for f in files}) == len(files)
    detections: list[dict[str, Any]] = []
    panoptic = _Panoptic(out, ids)
    images = []
    unread = 0
    for nth, file in enumerate(files, 1):
        try:
            img = imread(str(file))
        except (OSError, ValueError) as e:
            if len(files) == 1:
                raise CliError(first_line(e)) from None
            unread += 1
            warn(f"[{nth}/{len(files)}] {first_line(e)}")
            continue
        began = time.perf_counter()
        try:
            result = inference_detector(model, img)
        except torch.OutOfMemoryError:
            raise CliError(f"not enough memory for {file}, {img.shape[1]}x{img.shape[0]}") from None
        except (*USER_ERRORS, cv2.error) as e:
            raise CliError(f"{file}, {img.shape[1]}x{img.shape[0]}, cannot be run: "
                           f"{first_line(e)}") from e
        seconds = time.perf_counter() - began
        name = file.name if told_apart else f"{nth:06}_{file.name}"
        images.append(dict(id=nth, file_name=str(file), width=img.shape[1], height=img.shape[0]))
        segments: list[int] = []
        boxes = result
        if isinstance(result, dict):
            if "pan_results" in result:
                segments = panoptic.add(result["pan_results"], nth, name)
            boxes = result.get("ins_results")
        entries = [] if boxes is None else _entries(boxes, nth, ids, args.score_thr)
        detections += entries
        model.show_result(img, result, score_thr=args.score_thr, bbox_color="random",
                          text_color=(255, 255, 255), out_file=str(out / name))
        counts = Counter(names[i] for i in segments or [e["category_id"] for e in entries])
        told = ", ".join(f"{n} {name}" for name, n in counts.most_common()) or "nothing"
        note(f"[{nth}/{len(files)}] {file.name}: {told} ({1e3 * seconds:.0f} ms)")
    _write(out, "detections.json", detections)
    if panoptic.records:
        _write(out, "panoptic.json", dict(annotations=panoptic.records))
    _write(out, "images.json", dict(images=images, categories=categories))
    total = sum(len(r["segments_info"]) for r in panoptic.records) or len(detections)
    note(f"{total} objects in {len(images)} images, written to {out}")
    if unread:
        raise CliError(f"{unread} of {len(files)} files could not be read, see above")
    return 0
