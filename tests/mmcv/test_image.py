"""Image functions against what mmcv 1.7.2 computed (``mmcv-1.7.2.json``), and their messages."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

mmcv = pytest.importorskip("fastdet.mmcv", reason="needs the extra mmcv")

FACTS = json.loads((Path(__file__).parent / "mmcv-1.7.2.json").read_text())
IMAGE = (np.arange(72) * 37 % 256).reshape(4, 6, 3).astype(np.uint8)


def plain(value):
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(("name", "arguments", "expected"), FACTS["image"],
                         ids=[f"{n}-{i}" for i, (n, *_) in enumerate(FACTS["image"])])
def test_pixels_are_those_of_mmcv(name, arguments, expected):
    np.random.seed(0)  # noqa: NPY002
    kwargs = {k: np.array(v) if k in ("mean", "std") else plain(v) for k, v in arguments.items()}
    before = IMAGE.copy()
    out = getattr(mmcv, name)(IMAGE, **kwargs)
    expected = np.array(expected)
    assert out.shape == expected.shape
    if out.dtype == np.uint8:
        assert np.array_equal(out, expected)
    else:
        np.testing.assert_allclose(out, expected, atol=1e-5, rtol=0)
    assert np.array_equal(IMAGE, before), "the input was changed"


@pytest.mark.parametrize(("old", "scale", "expected"), FACTS["rescale_size"])
def test_rescaled_sizes_are_those_of_mmcv(old, scale, expected):
    assert list(mmcv.rescale_size(tuple(old), plain(scale))) == expected


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("flag", ["color", "grayscale", "unchanged"])
def test_a_png_comes_back(tmp_path, backend, flag):
    file = tmp_path / "new" / "picture.png"
    assert mmcv.imwrite(IMAGE, str(file))
    out = mmcv.imread(file, flag, backend=backend)
    if flag == "grayscale":
        assert np.abs(out.astype(int) - mmcv.bgr2gray(IMAGE)).max() <= 1  # each rounds its own way
    else:
        assert np.array_equal(out, IMAGE)
    if flag == "color":
        assert np.array_equal(mmcv.imread(file, channel_order="rgb", backend=backend),
                              IMAGE[..., ::-1])


def test_a_damaged_image_is_named(tmp_path):
    file = tmp_path / "broken.jpg"
    assert mmcv.imwrite(np.tile(IMAGE, (20, 20, 1)), str(file))
    file.write_bytes(file.read_bytes()[:100])
    for backend in ("cv2", "pillow"):
        with pytest.raises(ValueError, match=r"cannot read the image .*broken\.jpg"):
            mmcv.imread(str(file), backend=backend)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        mmcv.imread(tmp_path / "none.png")


def test_the_backend_can_be_chosen_and_a_wrong_one_is_refused():
    from fastdet.mmcv.image import io as image_io

    buffer = io.BytesIO()
    from PIL import Image

    Image.fromarray(IMAGE).convert("LA").save(buffer, "png")
    mmcv.use_backend("pillow")
    try:
        assert mmcv.imfrombytes(buffer.getvalue()).shape == (4, 6, 3)
        assert image_io.imread_backend == "pillow"
    finally:
        mmcv.use_backend("cv2")
    with pytest.raises(ValueError, match="one of cv2, turbojpeg, pillow, tifffile, got 'gd'"):
        mmcv.use_backend("gd")


@pytest.mark.parametrize(("call", "message"), [
    (lambda: mmcv.impad(IMAGE), "needs one of shape and padding, got neither"),
    (lambda: mmcv.impad(IMAGE, padding=1, pad_val=(1, 2)), "3 channels"),
    (lambda: mmcv.imflip(IMAGE, "sideways"), "one of horizontal, vertical, diagonal"),
    (lambda: mmcv.imresize(IMAGE, (2, 2), interpolation="cubic"), "interpolation must be one of"),
    (lambda: mmcv.imrotate(IMAGE, 1, center=(0, 0), auto_bound=True), "leave out center"),
    (lambda: mmcv.rescale_size((2, 2), 0), "must be positive"),
    (lambda: mmcv.color_val("pink"), "unknown colour 'pink'"),
])
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_in_place_forms_write_into_their_input():
    img = IMAGE.astype(np.float32)
    assert mmcv.imnormalize_(img, np.zeros(3), np.full(3, 2.0)) is img
    np.testing.assert_array_equal(img, IMAGE[..., ::-1] / 2)
    other = IMAGE.copy()
    mmcv.imflip_(other)
    assert np.array_equal(other, mmcv.imflip(IMAGE))


def test_normalisation_is_undone_for_a_batch():
    import torch

    mean, std = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
    img = mmcv.imnormalize(IMAGE, np.array(mean), np.array(std))
    back, = mmcv.tensor2imgs(torch.from_numpy(img).permute(2, 0, 1)[None], mean, std)
    assert np.abs(back.astype(int) - IMAGE).max() <= 1  # float32, cut to bytes


def test_boxes_are_drawn_on_a_copy(tmp_path):
    img = np.zeros((40, 60, 3), np.uint8)
    boxes = np.array([[3, 4, 20, 30, 0.9], [10, 5, 40, 33, 0.2]])
    out = mmcv.imshow_det_bboxes(img, boxes, np.array([0, 1]), score_thr=0.5, show=False,
                                 bbox_color="red", out_file=str(tmp_path / "a" / "b.png"))
    assert not img.any()
    assert tuple(out[4, 10]) == (0, 0, 255)
    assert not out[33, 35].any(), "a box below the threshold was drawn"
    assert np.array_equal(mmcv.imread(tmp_path / "a" / "b.png"), out)


def test_flow_survives_a_file_and_moves_pixels(tmp_path):
    flow = np.zeros((4, 6, 2), np.float32)
    flow[..., 0] = 1
    mmcv.flowwrite(flow, str(tmp_path / "f.flo"))
    assert np.array_equal(mmcv.flowread(str(tmp_path / "f.flo")), flow)
    for mode in ("nearest", "bilinear"):
        warped = mmcv.flow_warp(IMAGE, flow, 9, mode)
        assert np.array_equal(warped[:3, :4], IMAGE[:3, 1:5])
        assert (warped[:, 5] == 9).all()
