"""Drawn inputs, and what is kept of results: the same for MMDetection's records and our tests."""

import json
from pathlib import Path

import numpy as np

NAMES = ["cat", "dog", "car", "bus"]
IDS = [3, 7, 9, 90]


def image(rng, h, w, dtype="uint8"):
    coarse = rng.randint(0, 256, (-(-h // 10), -(-w // 10), 3))
    return np.repeat(np.repeat(coarse, 10, 0), 10, 1)[:h, :w].astype(dtype)


def sample(seed, bitmaps, polygons, h=90, w=120, masks=None, seg=False, dtype="uint8",
           ignore=True):
    """An image with five objects, as a pipeline has it after loading.

    ``bitmaps`` and ``polygons`` are the classes of masks.
    """
    rng = np.random.RandomState(seed)
    xy = rng.rand(5, 2) * [w * 0.7, h * 0.7]
    boxes = np.hstack([xy, np.minimum(xy + 5 + rng.rand(5, 2) * [w * 0.3, h * 0.3], [w, h])])
    boxes = boxes.astype(np.float32)
    img = image(rng, h, w, dtype)
    out = dict(filename="a.jpg", ori_filename="a.jpg", img=img, img_shape=img.shape,
               ori_shape=img.shape, img_fields=["img"], bbox_fields=["gt_bboxes"],
               mask_fields=[], seg_fields=[], gt_bboxes=boxes, gt_labels=rng.randint(0, 5, 5))
    if ignore:
        out["gt_bboxes_ignore"] = boxes[:2] + 1
        out["bbox_fields"] = ["gt_bboxes_ignore", "gt_bboxes"]
    if masks == "bitmap":
        drawn = np.zeros((5, h, w), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(drawn, boxes.astype(int)):
            mask[y1:y2, x1:x2] = 1
        out["gt_masks"] = bitmaps(drawn, h, w)
    elif masks == "polygon":
        out["gt_masks"] = polygons([[np.array([x1, y1, x2, y1, x2, y2, x1, y2], np.float64)]
                                    for x1, y1, x2, y2 in boxes], h, w)
    if masks:
        out["mask_fields"] = ["gt_masks"]
    if seg:
        out["gt_semantic_seg"] = rng.randint(0, 20, (h, w)).astype(np.uint8)
        out["seg_fields"] = ["gt_semantic_seg"]
    return out


def facts(value):
    """What a record keeps: arrays by shape, type, sum and eight values."""
    kind = type(value).__name__
    if kind == "DataContainer":
        return {"stack": value.stack, "pad": value.padding_value, "cpu": value.cpu_only,
                "data": facts(value.data)}
    if kind in ("BitmapMasks", "PolygonMasks"):
        rows = value.masks if kind == "BitmapMasks" else [np.concatenate(m) for m in value.masks]
        return {"kind": kind, "size": [int(value.height), int(value.width)],
                "rows": [float(np.sum(r, dtype=np.float64)) for r in rows]}
    if hasattr(value, "numpy"):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        flat = value.reshape(-1)
        picks = flat[np.linspace(0, len(flat) - 1, 8).astype(int)] if len(flat) else flat
        return {"shape": list(value.shape), "dtype": str(value.dtype),
                "sum": float(flat.sum(dtype=np.float64)), "picks": picks.astype(float).tolist()}
    if isinstance(value, dict):
        return {str(k): facts(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [facts(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def close(got, expected, where=""):
    """Hold two results of :func:`facts` against each other; numbers to a millionth."""
    if isinstance(expected, dict):
        assert set(got) == set(expected), where
        for key in expected:
            close(got[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(got) == len(expected), where
        for i, (a, b) in enumerate(zip(got, expected)):
            close(a, b, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert abs(got - expected) <= 1e-6 * max(1.0, abs(expected)), (where, got, expected)
    else:
        assert got == expected, (where, got, expected)


def draw_set(root, write):
    """A data set of 12 small pictures in COCO's and in VOC's format; ``write`` is ``cv2.imwrite``.

    Returns:
        The folder, with ``ann.json``, ``ids.txt``, ``img`` and ``VOC2007``.
    """
    root = Path(root)
    for folder in ("img", "VOC2007/JPEGImages", "VOC2007/Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(0)
    images, anns = [], []
    for i in range(12):
        w, h = (120, 90) if i % 3 else (80, 110)
        if i == 5:
            w = 20  # too small to train on
        write(str(root / f"img/{i}.png"), image(rng, h, w))
        write(str(root / f"VOC2007/JPEGImages/{i}.jpg"), image(rng, h, w))
        images.append(dict(id=100 + i, file_name=f"{i}.png", width=w, height=h))
        xml = f"<size><width>{w}</width><height>{h}</height></size>"
        for _ in range(0 if i == 7 else rng.randint(1, 6)):
            x, y = (rng.rand(2) * [w * 0.7, h * 0.7]).tolist()
            bw, bh = (3 + rng.rand(2) * [w * 0.4, h * 0.4]).tolist()
            kind = rng.randint(0, 4)
            crowd = int(rng.rand() < 0.1)
            outline = [[x, y, x + bw, y, x + bw, y + bh, x, y + bh]]
            anns.append(dict(
                id=len(anns) + 1, image_id=100 + i, category_id=IDS[kind], bbox=[x, y, bw, bh],
                area=bw * bh * 0.8, iscrowd=crowd,
                segmentation=dict(counts=[10, 20, 5], size=[7, 5]) if crowd else outline))
            xml += (f"<object><name>{NAMES[kind]}</name>"
                    f"<difficult>{int(rng.rand() < 0.2)}</difficult>"
                    f"<bndbox><xmin>{x + 1:.0f}</xmin><ymin>{y + 1:.0f}</ymin>"
                    f"<xmax>{min(x + bw, w):.0f}</xmax><ymax>{min(y + bh, h):.1f}</ymax>"
                    "</bndbox></object>")
        (root / f"VOC2007/Annotations/{i}.xml").write_text(f"<annotation>{xml}</annotation>")
    (root / "ann.json").write_text(json.dumps(dict(
        images=images, annotations=anns,
        categories=[dict(id=i, name=n) for i, n in zip(IDS, NAMES)])))
    (root / "ids.txt").write_text("\n".join(map(str, range(12))))
    return root


def detections(dataset, seed):
    """Detections near the true boxes and elsewhere, of each image and class."""
    rng = np.random.RandomState(seed)
    found = []
    for i in range(len(dataset)):
        ann = dataset.get_ann_info(i)
        of_image = []
        for label in range(4):
            near = ann["bboxes"][ann["labels"] == label]
            boxes = np.vstack([near + rng.randn(*near.shape) * 3, np.hstack(
                [rng.rand(3, 2) * 60, 60 + rng.rand(3, 2) * 40])])
            of_image.append(np.hstack([boxes, rng.rand(len(boxes), 1)]).astype(np.float32))
        found.append(of_image)
    return found
