"""MMDetection 2.x code on fastdet: these lines before anything imports mmcv or mmdet.

    python examples/run_mmdetection.py CONFIG CHECKPOINT IMAGE

The same for a script that stays as it is: python -m fastdet run tools/test.py CONFIG CHECKPOINT …
"""

import sys

import fastdet

print(fastdet.install())

from mmdet.apis import inference_detector, init_detector  # noqa: E402

config, checkpoint, image = sys.argv[1:]
model = init_detector(config, checkpoint, device="cpu")
model.show_result(image, inference_detector(model, image), out_file="result.jpg")
