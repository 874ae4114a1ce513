"""Data sets of benchmarks, drawn small, and what a library makes of them.

``python benchmark_sets.py FILE`` writes, as JSON, what MMDetection 2.26.0 makes of them on
fastdet's mmcv: the records of ``test_benchmark_sets.py``. It needs mmdet, panopticapi,
cityscapesscripts and lvis.
"""

import csv
import json
import pickle
import sys
import tempfile
import warnings
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

ROOT = Path(__file__).parents[2]
#: Whether the package is there.
CITYSCAPES_SCRIPTS = True
SIZES = [(60, 80), (50, 64), (64, 96), (72, 48), (40, 40), (90, 70)]
LABELS = ["/m/a", "/m/b", "/m/c", "/m/d", "/m/e", "/m/f"]
TREE = {"LabelName": "/m/root", "Subcategory": [
    {"LabelName": "/m/a", "Subcategory": [
        {"LabelName": "/m/b", "Subcategory": [{"LabelName": "/m/c"}]}, {"LabelName": "/m/d"}]},
    {"Part": []}, {"LabelName": "/m/e"}, {"LabelName": "/m/f"}]}


def boxes_in(rng, n, h, w):
    xy = rng.rand(n, 2) * [0.6 * w, 0.6 * h]
    return np.hstack([xy, xy + (0.1 + 0.3 * rng.rand(n, 2)) * [w, h]])


def near(rng, boxes, size):
    """Detections near boxes [n, 4], and two elsewhere."""
    noise = rng.randn(len(boxes), 4) * 2
    found = np.vstack([boxes + noise, boxes_in(rng, 2, *size)])
    return np.hstack([found, rng.rand(len(found), 1)]).astype(np.float32)


def detections(dataset, sizes, classes, seed, scale=1):
    rng = np.random.RandomState(seed)
    found = []
    for i, (h, w) in enumerate(sizes):
        ann = dataset.get_ann_info(i)
        boxes = ann["bboxes"] * ([w, h, w, h] if scale == "parts" else scale)
        found.append([near(rng, boxes[ann["labels"] == k], (h, w)) if rng.rand() < 0.8
                      else np.zeros((0, 5), np.float32) for k in range(classes)])
    return found


def draw_open_images(root):
    rng = np.random.RandomState(0)
    rows, levels, metas, text = [], [], [], []
    for i, (h, w) in enumerate(SIZES):
        n = rng.randint(1, 6)
        boxes = boxes_in(rng, n, 1, 1)
        labels, flags = rng.randint(0, 6, n), rng.randint(-1, 2, (n, 5))
        rows += [[f"im{i}", "xclick", LABELS[k], 1, b[0], b[2], b[1], b[3], *f]
                 for k, b, f in zip(labels, boxes, flags)]
        levels += [[f"im{i}", "verification", LABELS[k], v]
                   for k, v in zip(rng.randint(0, 6, 2), rng.randint(0, 2, 2))]
        metas.append(dict(filename=f"data/im{i}.jpg", ori_shape=(h, w, 3)))
        text += [f"train/im{i}.jpg", f"{h} {w}", str(n)]
        text += [" ".join(map(str, [k + 1, *b, max(f[0], 0)]))
                 for k, b, f in zip(labels, boxes, flags)]

    def write(name, table):
        with (root / name).open("w", newline="") as f:
            csv.writer(f).writerows(table)

    write("boxes.csv", [["ImageID", *"23456789abcd"], *rows])
    write("levels.csv", [["ImageID", "Source", "LabelName", "Confidence"], *levels[:-2]])
    write("levels_challenge.csv", [["ImageID", "LabelName", "Confidence"],
                                   *([a, c, d] for a, _, c, d in levels[:-2])])
    write("labels.csv", [[label, f"class {label[-1]}"] for label in LABELS])
    order = [3, 1, 2, 6, 5, 4]
    write("labels_challenge.csv", [[label, f"class {label[-1]}", n]
                                   for label, n in zip(LABELS, order)])
    (root / "boxes.txt").write_text("\n".join(text))
    (root / "tree.json").write_text(json.dumps(TREE))
    related = np.eye(7)
    related[2, 1] = related[4, 3] = related[4, 1] = 1
    with (root / "tree.np").open("wb") as f:
        np.save(f, related)
    (root / "metas.pkl").write_bytes(pickle.dumps(metas))


def open_images(datasets, root):
    kwargs = dict(pipeline=[], meta_file=str(root / "metas.pkl"), img_prefix=str(root))
    plain = dict(kwargs, ann_file=str(root / "boxes.csv"), label_file=str(root / "labels.csv"),
                 hierarchy_file=str(root / "tree.json"),
                 image_level_ann_file=str(root / "levels.csv"))
    challenge = dict(kwargs, ann_file=str(root / "boxes.txt"),
                     label_file=str(root / "labels_challenge.csv"),
                     hierarchy_file=str(root / "tree.np"),
                     image_level_ann_file=str(root / "levels_challenge.csv"))
    for name, cls, args in (("openimages", datasets.OpenImagesDataset, plain),
                            ("challenge", datasets.OpenImagesChallengeDataset, challenge)):
        dataset = cls(test_mode=True, **args)
        yield name, dict(
            classes=list(dataset.CLASSES), infos=dataset.data_infos, index=dataset.index_dict,
            tree=dataset.class_label_tree, labels=dict(dataset.cat2label),
            anns=[dataset.get_ann_info(i) for i in range(6)],
            cats=[dataset.get_cat_ids(i) for i in range(6)],
            levels=dataset.get_image_level_ann(args["image_level_ann_file"]))
        for i, extra in enumerate(({}, dict(iou_thr=[0.5, 0.7], ioa_thr=[0.5, 0.3]))):
            yield f"{name} scores {i}", dict(dataset.evaluate(
                detections(dataset, SIZES, 6, 3, "parts"), logger="silent", **extra))
        for i, extra in enumerate((dict(filter_labels=False),
                                   dict(load_image_level_labels=False))):
            dataset = cls(test_mode=True, **args, **extra)
            found = detections(dataset, SIZES, 6, 4, "parts")
            yield f"{name} settings {i}", dict(dataset.evaluate(found, logger="silent"))
            yield f"{name} processed {i}", found
    train = datasets.OpenImagesDataset(**plain)
    yield "openimages flags", train.flag


def draw_cityscapes(root):
    rng = np.random.RandomState(1)
    images, anns = [], []
    for folder in ("leftImg8bit/val/x", "gtFine/val/x"):
        (root / folder).mkdir(parents=True)
    names = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    for i in range(4):
        name = f"x_{i:06}_000019"
        images.append(dict(id=i, file_name=f"x/{name}_leftImg8bit.png", height=120, width=200,
                           segm_file=f"x/{name}_gtFine_labelIds.png"))
        instances = np.full((120, 200), 7, np.int32)
        for n in range(3):
            kind = rng.randint(0, 3) if n else 2
            x, y, w, h = rng.randint(5, 60) + 65 * n, rng.randint(5, 60), 55, 50
            instances[y:y + h, x:x + w] = (24 + kind) * 1000 + n
            crowd = int(i == 3 or (n == 2 and i == 1))
            code = coco_mask.encode(np.asfortranarray(instances == (24 + kind) * 1000 + n))
            anns.append(dict(
                id=len(anns) + 1, image_id=i, category_id=24 + kind, iscrowd=crowd,
                bbox=[int(x), int(y), w, h], area=int(coco_mask.area(code)),
                segmentation=dict(size=code["size"], counts=code["counts"].decode())))
        cv2.imwrite(str(root / f"gtFine/val/x/{name}_gtFine_instanceIds.png"),
                    instances.astype(np.uint16))
    ids = [24, 25, 26, 27, 28, 31, 32, 33]
    (root / "cityscapes.json").write_text(json.dumps(dict(
        images=images, annotations=anns,
        categories=[dict(id=i, name=n) for i, n in zip(ids, names)])))


def cityscapes(datasets, root):
    kwargs = dict(ann_file=str(root / "cityscapes.json"), pipeline=[],
                  img_prefix=str(root / "leftImg8bit/val/"))
    train = datasets.CityscapesDataset(**kwargs)
    yield "cityscapes", dict(ids=train.img_ids, names=[i["filename"] for i in train.data_infos],
                             anns=[train.get_ann_info(i) for i in range(len(train))],
                             flag=train.flag)
    dataset = datasets.CityscapesDataset(test_mode=True, **kwargs)
    results = []
    for found in detections(dataset, [(120, 200)] * 4, 8, 5):
        masks = []
        for boxes in found:
            own = []
            for x1, y1, x2, y2, _ in boxes:
                drawn = np.zeros((120, 200), np.uint8)
                drawn[max(int(y1), 0):int(y2), max(int(x1), 0):int(x2)] = 1
                own.append(coco_mask.encode(np.asfortranarray(drawn)))
            masks.append(own)
        results.append((found, masks))
    yield "cityscapes segm", dict(dataset.evaluate(results, ["bbox", "segm"], logger="silent"))
    if not CITYSCAPES_SCRIPTS:
        return
    yield "cityscapes scores", dict(dataset.evaluate(results, "cityscapes", logger="silent"))
    with tempfile.TemporaryDirectory() as folder:
        files, _ = dataset.format_results(results, f"{folder}/out")
        yield "cityscapes files", {Path(f).name: Path(f).read_text().split() for f in files}


def draw_panoptic(root):
    rng = np.random.RandomState(3)
    (root / "panoptic").mkdir()
    kinds = [(1, "person", 1), (3, "car", 1), (92, "banner", 0), (95, "bridge", 0)]
    images, anns, things = [], [], []
    for i, (h, w) in enumerate(SIZES[:5]):
        ids = np.zeros((h, w), np.int32)
        segments = []
        for n in range(rng.randint(3, 6)):
            x1, y1, x2, y2 = boxes_in(rng, 1, h, w)[0].astype(int)
            kind = kinds[rng.randint(2, 4)] if i == 4 else kinds[rng.randint(0, 4)]
            ids[y1:y2, x1:x2] = own = 7 + 300 * n + 66000 * (n % 2)
            crowd = int(kind[2] and rng.rand() < 0.25)
            segments.append(dict(id=own, category_id=kind[0], iscrowd=crowd))
        for s in segments:
            ys, xs = np.nonzero(ids == s["id"])
            s["area"] = len(ys)
            s["bbox"] = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1,
                         int(np.ptp(ys)) + 1] if len(ys) else [0, 0, 0, 0]
            if s["category_id"] < 90 and len(ys):
                code = coco_mask.encode(np.asfortranarray(ids == s["id"]))
                things.append(dict(
                    id=len(things) + 1, image_id=i + 10, segmentation=dict(
                        size=code["size"], counts=code["counts"].decode()),
                    **{k: s[k] for k in ("category_id", "iscrowd", "area", "bbox")}))
        rgb = np.stack([ids // 256**k % 256 for k in (2, 1, 0)], -1).astype(np.uint8)
        cv2.imwrite(str(root / f"panoptic/{i}.png"), rgb)
        images.append(dict(id=i + 10, file_name=f"{i}.jpg", height=h, width=w))
        anns.append(dict(image_id=i + 10, file_name=f"{i}.png",
                         segments_info=[s for s in segments if s["area"]]))
    cats = [dict(id=k, name=n, isthing=t) for k, n, t in kinds]
    (root / "panoptic.json").write_text(json.dumps(dict(
        images=images, annotations=anns, categories=cats)))
    (root / "things.json").write_text(json.dumps(dict(
        images=images, annotations=things, categories=cats[:2])))


def panoptic_results(dataset, void):
    """Maps near the truth: shifted, mislabelled, partly void; and things."""
    rng = np.random.RandomState(6)
    results = []
    for i, (h, w) in enumerate(SIZES[:5]):
        ann = dataset.get_ann_info(i)
        rgb = cv2.imread(str(Path(dataset.seg_prefix) / ann["seg_map"]))[..., ::-1].astype(int)
        ids = rgb @ [1, 256, 256**2]
        pan = np.full((h, w), void, np.int64)
        for n, s in enumerate(ann["masks"], 1):
            kind = s["category"] if rng.rand() < 0.8 else rng.randint(0, 4)
            here = np.roll(ids == s["id"], rng.randint(-3, 4), 1)
            pan[here] = kind + (1000 * n if kind < 2 else 0)
        pan[:6, :10] = 3
        boxes = near(rng, ann["bboxes"], (h, w))
        labels = rng.randint(0, 2, len(boxes))
        masks = []
        for x1, y1, x2, y2, _ in boxes:
            drawn = np.zeros((h, w), np.uint8)
            drawn[max(int(y1), 0):int(y2), max(int(x1), 0):int(x2)] = 1
            masks.append(coco_mask.encode(np.asfortranarray(drawn)))
        results.append(dict(pan_results=pan, ins_results=(
            [boxes[labels == k] for k in range(2)],
            [[m for m, label in zip(masks, labels) if label == k] for k in range(2)])))
    return results


def panoptic(datasets, root):
    class Small(datasets.CocoPanopticDataset):
        CLASSES = ("person", "car", "banner", "bridge")
        THING_CLASSES, STUFF_CLASSES = CLASSES[:2], CLASSES[2:]

    kwargs = dict(ann_file=str(root / "panoptic.json"), ins_ann_file=str(root / "things.json"),
                  seg_prefix=str(root / "panoptic"), img_prefix=str(root), pipeline=[])
    train = Small(**kwargs)
    yield "panoptic", dict(ids=train.img_ids, infos=train.data_infos, flag=train.flag,
                           anns=[train.get_ann_info(i) for i in range(len(train))],
                           cats=[train.get_cat_ids(i) for i in range(len(train))])
    dataset = Small(test_mode=True, **kwargs)
    yield "panoptic PQ", dict(dataset.evaluate(
        panoptic_results(dataset, 4), "PQ", logger="silent", classwise=True, nproc=2))
    yield "panoptic things", dict(dataset.evaluate(
        panoptic_results(dataset, 4), ["bbox", "segm"], logger="silent"))


def draw_lvis(root):
    rng = np.random.RandomState(8)
    images, anns = [], []
    for i, (h, w) in enumerate(SIZES):
        images.append(dict(
            id=i + 1, height=h, width=w, file_name=f"COCO_val2014_{i:012}.jpg",
            coco_url=f"http://images.cocodataset.org/val2017/{i:012}.jpg",
            not_exhaustive_category_ids=[], neg_category_ids=[3]))
        for x1, y1, x2, y2 in boxes_in(rng, 3, h, w):
            anns.append(dict(id=len(anns) + 1, image_id=i + 1, category_id=int(rng.randint(1, 4)),
                             bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1),
                             segmentation=[[x1, y1, x2, y1, x2, y2]]))
    (root / "lvis.json").write_text(json.dumps(dict(
        images=images, annotations=anns, categories=[
            dict(id=i, name=f"c{i}", frequency="frc"[i - 1], synset="", instance_count=1,
                 image_count=1) for i in (1, 2, 3)])))


def lvis(datasets, root):
    for cls in (datasets.LVISV05Dataset, datasets.LVISV1Dataset):
        dataset = cls(str(root / "lvis.json"), [], ("c1", "c2", "c3"), test_mode=True)
        yield cls.__name__, dict(
            names=[i["filename"] for i in dataset.data_infos],
            anns=[{k: v for k, v in dataset.get_ann_info(i).items() if k != "masks"}
                  for i in range(6)],
            scores=dict(dataset.evaluate(detections(dataset, SIZES, 3, 9), ["bbox"],
                                         logger="silent")))


def draw_wider(root):
    (root / "WIDER/Annotations").mkdir(parents=True)
    for i, (h, w) in enumerate(SIZES[:2]):
        (root / f"WIDER/Annotations/{i}.xml").write_text(
            f"<annotation><folder>f{i}</folder><size><width>{w}</width><height>{h}</height></size>"
            "<object><name>face</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>4</ymin>"
            f"<xmax>{20 + 20 * i}</xmax><ymax>30</ymax></bndbox></object></annotation>")
    (root / "wider.txt").write_text("0\n1")


def wider(datasets, root):
    dataset = datasets.WIDERFaceDataset(ann_file=str(root / "wider.txt"), pipeline=[],
                                        img_prefix=str(root / "WIDER"), min_size=17)
    yield "wider", dict(infos=dataset.data_infos, anns=[dataset.get_ann_info(i) for i in (0, 1)])
    yield "classes", {name: list(getattr(datasets, name).CLASSES) for name in (
        "CityscapesDataset", "CocoPanopticDataset", "DeepFashionDataset", "WIDERFaceDataset")}


def draw(root):
    for one in (draw_open_images, draw_cityscapes, draw_panoptic, draw_lvis, draw_wider):
        one(root)


PARTS = {"open images": open_images, "cityscapes": cityscapes, "panoptic": panoptic,
         "lvis": lvis, "wider": wider}


def main():
    sys.path.insert(0, str(ROOT / "tests"))
    import fastdet

    fastdet.install()
    import mmdet.datasets
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as scripts
    from datasets.recipe import facts

    warnings.simplefilter("ignore")
    scripts.writeDict2JSON = lambda value, file: None  # NumPy 2.4's counts are no JSON
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw(root)
        found = {part: {name: facts(value) for name, value in run(mmdet.datasets, root)}
                 for part, run in PARTS.items()}
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
