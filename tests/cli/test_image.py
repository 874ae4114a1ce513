"""The photograph: what is read, refused, resized and normalised."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastdet.cli.errors import CliError
from fastdet.cli.image import (
    Normalization,
    normalization_of,
    normalize,
    parse_size,
    read_photo,
    resize,
)


def test_images_of_other_ranges(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    want = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    sixteen, unit, bytes_ = (tmp_path / n for n in ("a.png", "b.tiff", "c.tiff"))
    Image.fromarray((ramp * 65535).astype(np.uint16)).save(sixteen)
    Image.fromarray(ramp).save(unit)
    Image.fromarray(ramp * 255).save(bytes_)
    for path in (sixteen, unit, bytes_):
        assert (np.abs(read_photo(str(path)).astype(int) - want) <= 1).all(), path
    for low, high in ((-1, 1), (0, 300), (0, np.nan)):
        Image.fromarray(np.array([[low, high]], dtype=np.float32)).save(unit)
        with pytest.raises(CliError, match=r"b\.tiff holds values .* must be in 0 \.\. 1 or"):
            read_photo(str(unit))
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(unit)
    with pytest.raises(CliError, match="must be in 16 bits"):
        read_photo(str(unit))


def test_resize_fits_the_limits():
    photo = np.zeros((600, 512, 3), dtype=np.uint8)
    assert resize(photo, (800, 1333)).shape == (938, 800, 3)
    assert resize(photo.transpose(1, 0, 2), (800, 900)).shape == (768, 900, 3)
    assert resize(np.full((1, 500, 3), 7, np.uint8), (64, 64)).shape == (1, 64, 3)
    flat = resize(np.full((9, 7, 3), 7, np.uint8), (64, 96))
    assert (flat == 7).all()


def test_normalisation():
    photo = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    usual = normalize(photo, Normalization())
    assert usual.shape == (1, 3, 32, 32)
    assert usual[0, 0, 0, 0] == torch.tensor((0 - 123.675) / 58.395)
    assert not usual[..., 2:, :].any()
    assert not usual[..., 3:].any()
    caffe = normalize(photo, Normalization((103.53, 116.28, 123.675), (1, 1, 1), False, 2))
    assert caffe.shape == (1, 3, 2, 4)
    assert caffe[0, 0, 0, 0] == torch.tensor(2 - 103.53)  # blue first


def test_normalisation_of_a_config():
    assert normalization_of({}) == Normalization()
    norm = dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=False)
    want = Normalization((1, 2, 3), (4, 5, 6), False)
    assert normalization_of({"img_norm_cfg": norm}) == want
    steps = [dict(type="MultiScaleFlipAug", transforms=[
        dict(type="Normalize", **norm), dict(type="Pad", size_divisor=64)])]
    want = Normalization((1, 2, 3), (4, 5, 6), False, 64)
    assert normalization_of({"test_pipeline": steps}) == want
    assert normalization_of({"data": {"test": {"pipeline": steps}}}) == want
    pre = dict(mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=False, pad_size_divisor=64)
    assert normalization_of({"model": {"data_preprocessor": pre}}) == want


def test_parse_size():
    assert parse_size("1333x800") == parse_size("800x1333") == (800, 1333)
