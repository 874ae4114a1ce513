"""``fastdet detect``: what a detector finds in images."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from fastdet.cli.console import note
from fastdet.cli.errors import CliError, first_line, require
from fastdet.cli.job import quiet
from fastdet.cli.model import USER_ERRORS
from fastdet.utils import ConfigError

__all__ = ["run"]

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
#: The numbers up to 90 that are no class of COCO.
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def _files(given: list[str]) -> list[Path]:
    """Image files, those of folders in the order of their names."""
    files: list[Path] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS)
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

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    for name in (args.config, args.checkpoint):
        if not Path(name).is_file():
            raise CliError(f"there is no file {name}")
    try:
        with quiet():
            return init_detector(args.config, args.checkpoint, device, args.cfg_options)
    except ConfigError as e:
        raise CliError(first_line(e)) from None
    except (*USER_ERRORS,) as e:
        raise CliError(f"the detector of {args.config} with {args.checkpoint} cannot be built: "
                       f"{first_line(e)}") from e


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
    from fastdet.apis import inference_detector
    from fastdet.mmcv.image import imread

    files = _files(args.images)
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise CliError(f"--out {out}: {e.strerror}") from None
    model = _model(args)
    categories = _categories(model.CLASSES)
    ids = [c["id"] for c in categories]
    detections: list[dict[str, Any]] = []
    images = []
    for nth, file in enumerate(files, 1):
        try:
            img = imread(str(file))
        except (OSError, ValueError) as e:
            raise CliError(first_line(e)) from None
        began = time.perf_counter()
        try:
            result = inference_detector(model, img)
        except torch.OutOfMemoryError:
            raise CliError(f"not enough memory for {file}, {img.shape[1]}x{img.shape[0]}") from None
        seconds = time.perf_counter() - began
        entries = _entries(result, nth, ids, args.score_thr)
        images.append(dict(id=nth, file_name=str(file), width=img.shape[1], height=img.shape[0]))
        detections += entries
        # Frames of several folders may have one name.
        name = file.name if len({f.name for f in files}) == len(files) else f"{nth:06}_{file.name}"
        model.show_result(img, result, score_thr=args.score_thr, bbox_color="random",
                          text_color=(255, 255, 255), out_file=str(out / name))
        names = {c["id"]: c["name"] for c in categories}
        counts = Counter(names[e["category_id"]] for e in entries)
        told = ", ".join(f"{n} {name}" for name, n in counts.most_common()) or "nothing"
        note(f"[{nth}/{len(files)}] {file.name}: {told} ({1e3 * seconds:.0f} ms)")
    _write(out, "detections.json", detections)
    _write(out, "images.json", dict(images=images, categories=categories))
    note(f"{len(detections)} objects in {len(files)} images, written to {out}")
    return 0
