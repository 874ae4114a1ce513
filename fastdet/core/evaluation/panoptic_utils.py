"""How panoptic results and COCO's PNGs hold segments."""

import numpy as np

__all__ = ["INSTANCE_OFFSET", "VOID", "id2rgb", "rgb2id", "segments_of"]

#: A pixel of instance i of class c is ``c + i * INSTANCE_OFFSET``.
INSTANCE_OFFSET = 1000
#: A pixel in COCO's PNGs that nothing is said of.
VOID = 0


def rgb2id(rgb: np.ndarray) -> np.ndarray:
    """Segment ids [H, W] int32 of the colours [H, W, 3] of a PNG of COCO's."""
    r, g, b = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return r + 256 * g + 256 * 256 * b


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """Colours [H, W, 3] uint8 of segment ids [H, W]."""
    return np.stack([ids // 256**k % 256 for k in range(3)], axis=-1).astype(np.uint8)


def segments_of(pan: np.ndarray, num_classes: int) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """A panoptic result as COCO has it.

    Args:
        pan: [H, W], a pixel its class plus :data:`INSTANCE_OFFSET` times its instance; the class
            ``num_classes`` is none.
        num_classes: things and stuff.

    Returns:
        The PNG's colours [H, W, 3], and id, class and area of every segment.
    """
    nothing = pan % INSTANCE_OFFSET == num_classes
    ids, areas = np.unique(pan[~nothing], return_counts=True)
    segments = [(i, i % INSTANCE_OFFSET, area) for i, area in zip(ids.tolist(), areas.tolist())]
    return id2rgb(np.where(nothing, VOID, pan)), segments
