"""Builds and runs records through the installed MMDetection on fastdet, and prints what differs.

``python through_mmdet.py zoo|records NAME...``: one JSON object, the differences of each name. A
process of its own, since MMDetection has to be imported after ``fastdet.install()``.
"""

import gzip
import json
import sys
import zlib
from pathlib import Path

import torch
import torch.distributed as dist

import fastdet

RECORDS = Path(__file__).parents[1] / "golden" / "detectors"


def zoo(names, build_detector, golden, config):
    """State dicts of models, by the zoo's file of each."""
    rows = {row["files"][0]: row
            for row in json.loads(gzip.decompress((RECORDS / "zoo-models.json.gz").read_bytes()))}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # for SyncBN
    for name in names or rows:
        with torch.device("meta"):
            model = build_detector(config(
                {"model": golden.decode(rows[name]["model"], None, None)}).model)
        state = [(key, list(value.shape)) for key, value in model.state_dict().items()]
        got = [len(state), zlib.crc32(json.dumps(state).encode())]
        yield name, [] if got == rows[name]["state"] else [f"{got}, not {rows[name]['state']}"]


def records(names, build_detector, golden, detectors):
    """Whole detectors."""
    detectors.build_detector = build_detector
    for name in names:
        case = golden.load(RECORDS / f"{name}.json.gz")
        yield name, detectors.mismatches(case, detectors.run(case))


def main(what, *names):
    fastdet.install()
    from mmcv import Config
    from mmdet.models import build_detector

    from fastdet.testing import detectors, golden

    found = zoo(names, build_detector, golden, Config) if what == "zoo" else records(
        names, build_detector, golden, detectors)
    print(json.dumps(dict(found)))


if __name__ == "__main__":
    main(*sys.argv[1:])
