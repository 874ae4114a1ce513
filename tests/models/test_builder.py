"""The model registry and its builders."""

import pytest
from torch import nn

import fastdet.models as models
from fastdet.models import (
    BACKBONES,
    DETECTORS,
    HEADS,
    LOSSES,
    NECKS,
    build_backbone,
    build_detector,
    build_head,
    build_loss,
    build_neck,
)
from fastdet.models.builder import MODELS


@pytest.fixture(autouse=True)
def _restore_registry():
    known = dict(MODELS.module_dict)
    yield
    MODELS.module_dict.clear()
    MODELS.module_dict.update(known)


def test_one_registry_under_every_name():
    assert BACKBONES is NECKS is HEADS is LOSSES is DETECTORS is MODELS


def test_every_exported_name_exists_and_components_are_registered():
    for name in models.__all__:
        assert hasattr(models, name)
    for name in (*models.backbones.__all__, *models.necks.__all__):
        assert MODELS.get(name) is getattr(models, name)


def test_user_class_registers_and_builds_from_a_config():
    @BACKBONES.register_module()
    class Mine(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.width = width

    for build in (build_backbone, build_neck, build_head, build_loss):
        assert build({"type": "Mine", "width": 3}).width == 3
        assert build({"type": "mmdet.Mine", "width": 3}).width == 3


def test_registered_name_is_replaced_only_by_force():
    class ResNet(nn.Module):
        pass

    with pytest.raises(KeyError, match="ResNet is already registered"):
        BACKBONES.register_module(module=ResNet)
    BACKBONES.register_module(module=ResNet, force=True)
    assert isinstance(build_backbone({"type": "ResNet"}), ResNet)


def test_list_of_necks_builds_a_chain():
    cfg = {"type": "FPN", "in_channels": [4, 4], "out_channels": 4, "num_outs": 2}
    chain = build_neck([cfg, cfg])
    assert [type(m) for m in chain] == [models.FPN, models.FPN]


def test_detector_gets_train_and_test_settings_once():
    @DETECTORS.register_module()
    class Detector(nn.Module):
        def __init__(self, train_cfg=None, test_cfg=None):
            super().__init__()
            self.cfgs = train_cfg, test_cfg

    assert build_detector({"type": "Detector"}, {"a": 1}, {"b": 2}).cfgs == ({"a": 1}, {"b": 2})
    assert build_detector({"type": "Detector", "train_cfg": {"a": 1}}).cfgs == ({"a": 1}, None)
    with pytest.raises(ValueError, match="train_cfg must be given once"):
        build_detector({"type": "Detector", "train_cfg": {"a": 1}}, train_cfg={"a": 1})


@pytest.mark.parametrize(("cfg", "error", "message"), [
    ({"type": "Resnet", "depth": 50}, KeyError, "did you mean ResNet"),
    ({"depth": 50}, KeyError, "needs the key 'type'"),
    (None, TypeError, "must be a dict"),
    ({"type": "ResNet", "deep": 50}, TypeError, "ResNet.*deep"),
    ({"type": "ResNet", "depth": 50, "num_stages": 5}, ValueError, "ResNet: num_stages must be"),
])
def test_bad_configs(cfg, error, message):
    with pytest.raises(error, match=message):
        build_backbone(cfg)
