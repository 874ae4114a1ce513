import logging
import pickle
from collections import OrderedDict
from fractions import Fraction

import pytest
import torch
from torch import nn

from fastdet.runner import (
    CheckpointLoader,
    _load_checkpoint,
    _load_checkpoint_with_prefix,
    checkpoint,
    find_state_dict,
    get_state_dict,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    weights_to_cpu,
)


class Net(nn.Module):
    def __init__(self, out=3):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.bn = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, out)


class Versioned(nn.Module):
    """Its version 2 renamed ``NAME_offset.weight``, a key beside it, to ``NAME.offset``."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(2))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        self.seen = local_metadata.get("version")
        old = f"{prefix[:-1]}_offset.weight"
        if (self.seen is None or self.seen < 2) and old in state_dict:
            state_dict[f"{prefix}offset"] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def same(a, b):
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


def test_round_trip(tmp_path):
    net = Net()
    net.CLASSES = ("cat", "dog")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net.fc(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    path = tmp_path / "new" / "folder" / "net.pth"
    meta = {"epoch": 3}
    save_checkpoint(net, path, optimizer, meta)
    assert meta == {"epoch": 3}

    other = Net()
    loaded = load_checkpoint(other, path, map_location="cpu", strict=True)
    same(other, net)
    assert loaded["meta"]["epoch"] == 3
    assert loaded["meta"]["CLASSES"] == ("cat", "dog")
    fresh = torch.optim.SGD(other.parameters(), lr=0.5, momentum=0.9)
    fresh.load_state_dict(loaded["optimizer"])
    assert fresh.param_groups[0]["lr"] == 0.1
    assert loaded["state_dict"]._metadata["bn"]["version"] == 2


def test_several_optimizers_and_a_bad_meta(tmp_path):
    net = Net()
    optimizers = {n: torch.optim.SGD(getattr(net, n).parameters(), lr=0.1) for n in ("conv", "fc")}
    save_checkpoint(net, tmp_path / "net.pth", optimizers)
    assert set(_load_checkpoint(tmp_path / "net.pth")["optimizer"]) == {"conv", "fc"}
    with pytest.raises(TypeError, match="meta must be a dict or None, got list"):
        save_checkpoint(net, tmp_path / "net.pth", meta=[])


@pytest.mark.parametrize("wrap", [
    lambda s: s,
    lambda s: {"state_dict": s, "meta": {}},
    lambda s: {"model": s},
    lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    lambda s: {f"module.{k}": v for k, v in s.items()},
], ids=["bare", "state_dict", "model", "module", "bare-module"])
def test_forms_of_a_checkpoint(tmp_path, wrap):
    net, other = Net(), Net()
    torch.save(wrap(net.state_dict()), tmp_path / "net.pth")
    load_checkpoint(other, str(tmp_path / "net.pth"), strict=True)
    same(other, net)


def test_a_module_called_model_is_no_wrapper():
    state = {"model": torch.ones(1)}
    assert find_state_dict(state) is state


def test_revise_keys_apply_in_order_and_replace_the_default(tmp_path):
    net, other = Net(), Net()
    torch.save({f"module.net.{k}": v for k, v in net.state_dict().items()}, tmp_path / "net.pth")
    load_checkpoint(other, tmp_path / "net.pth", strict=True,
                    revise_keys=[(r"^module\.", "a."), (r"^a\.net\.", "")])
    same(other, net)
    with pytest.raises(RuntimeError, match="module"):
        load_checkpoint(other, tmp_path / "net.pth", strict=True, revise_keys=[])


def test_part_of_a_detector(tmp_path):
    detector = nn.ModuleDict({"backbone": Net(), "backbone2": nn.Linear(1, 1)})
    torch.save({"state_dict": detector.state_dict()}, tmp_path / "d.pth")
    for prefix in ("backbone", "backbone."):
        part = _load_checkpoint_with_prefix(prefix, tmp_path / "d.pth")
        assert list(part) == list(Net().state_dict())
        assert part._metadata == Net().state_dict()._metadata
    other = Net()
    load_state_dict(other, part, strict=True)
    same(other, detector["backbone"])
    with pytest.raises(ValueError, match=r"starts with 'neck\.'; the first is 'backbone\."):
        _load_checkpoint_with_prefix("neck", tmp_path / "d.pth")


def mismatched():
    state = Net(out=4).state_dict()
    del state["conv.bias"]
    state["extra.weight"] = torch.ones(1)
    return state


EXPECTED = ("size mismatch for fc.weight", "size mismatch for fc.bias",
            "unexpected key in source state_dict: extra.weight",
            "missing keys in source state_dict: conv.bias")


def test_what_does_not_match_is_logged(caplog):
    net, state = Net(), mismatched()
    fc, bias = net.fc.weight.clone(), net.conv.bias.clone()
    with caplog.at_level(logging.WARNING, logger="fastdet"):
        load_state_dict(net, state)
    (record,) = caplog.records
    assert record.name == "fastdet"
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert message.startswith("The model and loaded state dict do not match exactly")
    for line in EXPECTED:
        assert line in message
    assert torch.equal(net.conv.weight, state["conv.weight"])  # the rest is loaded
    assert torch.equal(net.fc.weight, fc)
    assert torch.equal(net.conv.bias, bias)
    assert "extra.weight" in state


def test_a_given_logger_is_used(caplog):
    with caplog.at_level(logging.WARNING):
        load_state_dict(Net(), mismatched(), logger=logging.getLogger("mine"))
    assert [r.name for r in caplog.records] == ["mine"]


def test_what_does_not_match_raises_when_strict():
    with pytest.raises(RuntimeError) as e:
        load_state_dict(Net(), mismatched(), strict=True)
    for line in EXPECTED:
        assert line in str(e.value)


def test_a_match_is_silent_and_num_batches_tracked_may_be_missing(caplog):
    state = {k: v for k, v in Net().state_dict().items() if "num_batches_tracked" not in k}
    with caplog.at_level(logging.WARNING):
        load_state_dict(Net(), state, strict=True)
    assert not caplog.records


@pytest.mark.parametrize("version", [None, 1])
def test_old_versions_rename_keys_beside_their_own(tmp_path, version):
    net = nn.Sequential(OrderedDict(conv=Versioned()))
    state = OrderedDict({"module.conv_offset.weight": torch.ones(2)})
    if version is not None:
        state._metadata = OrderedDict({"module.conv": {"version": version}})
    torch.save(state, tmp_path / "old.pth")
    load_checkpoint(net, tmp_path / "old.pth", strict=True)
    assert net.conv.seen == version
    assert (net.conv.offset == 1).all()


def test_the_version_of_a_module_survives_saving(tmp_path):
    net = nn.Sequential(OrderedDict(conv=Versioned()))
    save_checkpoint(nn.DataParallel(net), tmp_path / "net.pth")
    load_checkpoint(net, tmp_path / "net.pth", strict=True)
    assert net.conv.seen == 2


def test_wrappers_do_not_show_in_keys():
    net = Net()
    inner = nn.ModuleDict({"a": nn.DataParallel(net), "b": nn.Linear(1, 1)})
    plain = nn.ModuleDict({"a": net, "b": inner["b"]})
    state = get_state_dict(nn.DataParallel(inner))
    assert list(state) == list(plain.state_dict())
    assert state._metadata["a.bn"]["version"] == 2
    zeroed = OrderedDict((k, torch.zeros_like(v)) for k, v in state.items())
    load_state_dict(nn.DataParallel(inner), zeroed, strict=True)
    assert all((v == 0).all() for v in plain.state_dict().values())


def test_weights_to_cpu_keeps_versions_and_other_values():
    state = Net().state_dict()
    state["extra"] = {"a": 1}
    out = weights_to_cpu(state)
    assert list(out) == list(state)
    assert out._metadata == state._metadata
    assert out["extra"] == {"a": 1}


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_refused_and_not_run(tmp_path, zipped):
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {}, "x": Evil()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"evil.pth needs pickle .*\bexec.* weights_only=False"):
        load_checkpoint(Net(), path)


def test_the_advice_on_a_pickled_checkpoint_works(tmp_path):
    old, new, net, other = tmp_path / "old.pth", tmp_path / "new.pth", Net(), Net()
    torch.save({"state_dict": net.state_dict(), "meta": {"best": Fraction(2, 5)}}, old)
    with pytest.raises(ValueError, match="needs pickle"):
        load_checkpoint(other, old)
    torch.save({"state_dict": torch.load(old, weights_only=False)["state_dict"]}, new)
    load_checkpoint(other, new, strict=True)
    same(other, net)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [
    b"", b"hello world", b'{"a": 1}', b"<!DOCTYPE html>", b"\xff" * 64, b"version https://git-lfs",
    pickle.dumps({"a": 1}, protocol=5),
], ids=["empty", "text", "json", "html", "bytes", "lfs", "pickle5"])
def test_files_that_are_no_checkpoint(tmp_path, content):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file.pth is not a checkpoint"):
        load_checkpoint(Net(), path)


def test_a_damaged_checkpoint(tmp_path):
    save_checkpoint(Net(), tmp_path / "net.pth")
    content = (tmp_path / "net.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[:len(content) // 2])
    with pytest.raises(ValueError, match=r"half.pth is not a checkpoint .*damaged"):
        load_checkpoint(Net(), tmp_path / "half.pth")


def test_a_file_of_something_else(tmp_path):
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="holds a Tensor, not a checkpoint"):
        load_checkpoint(Net(), tmp_path / "tensor.pth")


def test_a_missing_file(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(path)):
            load_checkpoint(Net(), path)


@pytest.mark.parametrize("name", ["gs://bucket/a.pth"])
def test_unknown_schemes_say_what_to_do(name):
    with pytest.raises(ValueError, match=r"https://.*download the checkpoint and pass its path"):
        load_checkpoint(Net(), name)


def test_names_of_the_model_zoo(monkeypatch):
    asked, net = [], Net()

    def download(url, **kwargs):
        asked.append(url)
        return {"state_dict": {f"backbone.{k}": v for k, v in net.state_dict().items()}}

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    _load_checkpoint("open-mmlab://detectron2/resnet50_caffe")
    with pytest.warns(UserWarning, match="in favor of open-mmlab://detectron/resnet50_caffe"):
        _load_checkpoint("openmmlab://resnet50_caffe")
    assert [url.rpartition("/")[2] for url in asked] == [
        "resnet50_msra-5891d200.pth", "resnet50_caffe-788b5fa3.pth"]
    other = Net()
    load_checkpoint(other, "mmcls://resnet50", strict=True)
    same(other, net)
    with pytest.raises(ValueError, match=r"open-mmlab://darknet35: .* mean darknet53"):
        _load_checkpoint("open-mmlab://darknet35")


def test_schemes_can_be_registered(monkeypatch):
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    net, other, asked = Net(), Net(), []

    @CheckpointLoader.register_scheme(["a://", "b://"])
    def load(filename, map_location):
        asked.append((filename, map_location))
        return net.state_dict()

    load_checkpoint(other, "b://x", map_location="cpu", strict=True)
    same(other, net)
    assert asked == [("b://x", "cpu")]
    with pytest.raises(KeyError, match="already registered"):
        CheckpointLoader.register_scheme("a://", load)
    CheckpointLoader.register_scheme("a://x", lambda f, m: {"longest": True})
    CheckpointLoader.register_scheme("a://", load, force=True)
    assert CheckpointLoader.load_checkpoint("a://x/y") == {"longest": True}


def test_addresses_go_to_torch_hub_without_pickle(monkeypatch):
    asked = []

    def hub(url, **kwargs):
        asked.append((url, kwargs))
        return {}

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", hub)
    CheckpointLoader.load_checkpoint("https://example.org/a.pth", "cpu")
    CheckpointLoader.load_checkpoint("torchvision://resnet50")
    assert asked == [
        ("https://example.org/a.pth",
         {"map_location": "cpu", "check_hash": False, "weights_only": True}),
        ("https://download.pytorch.org/models/resnet50-0676ba61.pth",
         {"map_location": None, "check_hash": True, "weights_only": True}),
    ]
    with pytest.raises(ValueError, match=r"torchvision://resnet51: known are .*resnet50"):
        CheckpointLoader.load_checkpoint("torchvision://resnet51")


def test_an_address_is_read_over_http(tmp_path, monkeypatch):
    import functools
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    net, other = Net(), Net()
    save_checkpoint(net, tmp_path / "served" / "net.pth")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    handler = functools.partial(Quiet, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        load_checkpoint(other, f"http://127.0.0.1:{server.server_port}/net.pth", strict=True)
        server.shutdown()
    same(other, net)


def test_torchs_own_message_about_a_device_is_kept():
    def no_cuda():
        raise RuntimeError("please use torch.load with map_location=torch.device('cpu')")

    with pytest.raises(RuntimeError, match="map_location"):
        checkpoint._read("a.pth", no_cuda)


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"state_dict": d}])
def test_keys_that_are_no_names_are_refused(wrap, tmp_path):
    torch.save(wrap({0: torch.ones(1)}), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="the keys of a state dict must be names of parameters, "
                                         "got the int 0"):
        load_checkpoint(nn.Linear(1, 1), tmp_path / "a.pth")


@pytest.mark.parametrize("metadata", [3, {"": 3}, {0: {}}, [1]])
def test_a_wrong_metadata_is_refused(metadata, tmp_path):
    state = nn.Linear(1, 1).state_dict()
    state._metadata = metadata
    torch.save(state, tmp_path / "a.pth")
    for load in (lambda m: load_checkpoint(m, tmp_path / "a.pth"),
                 lambda m: load_state_dict(m, state)):
        with pytest.raises(ValueError, match="the _metadata of a state dict must be a dict of "
                                             "dicts by module name, got "):
            load(nn.Linear(1, 1))
