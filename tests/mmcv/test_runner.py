"""Runners, hooks and optimizers: as mmcv 1.7.2 runs them, and what they refuse."""

import io
import json
import logging
import os
import sys
from collections import OrderedDict
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

pytest.importorskip("fastdet.mmcv", reason="needs the extra mmcv")
import runner_cases
from runner_cases import Data, Model, logger_to

from fastdet.mmcv import runner
from fastdet.mmcv.runner import EpochBasedRunner, Hook, IterBasedRunner
from fastdet.mmcv.runner.hooks import lr_updater
from fastdet.utils import ConfigDict

FACTS = json.loads(runner_cases.FACTS.read_text())


@pytest.fixture
def make(tmp_path):
    """Make a runner of a small model; its log is in ``runner.text``."""

    def build(model=None, kind=EpochBasedRunner, optimizer=None, **kwargs):
        model = Model() if model is None else model
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9) \
            if optimizer is None else optimizer
        text = io.StringIO()
        length = {} if {"max_iters", "max_epochs"} & set(kwargs) else dict(max_epochs=1)
        r = kind(model, optimizer=optimizer, logger=logger_to(text), work_dir=str(tmp_path),
                 **length, **kwargs)
        r.text = text
        return r

    return build


def run(r):
    r.run([DataLoader(Data())], [("train", 1)])
    return r


@pytest.fixture(scope="module")
def ours():
    return runner_cases.facts(runner)


@pytest.mark.parametrize("name", FACTS["lr"])
def test_learning_rates_are_those_of_mmcv(ours, name):
    assert ours["lr"][name] == pytest.approx(FACTS["lr"][name], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", FACTS["momentum"])
def test_momenta_are_those_of_mmcv(ours, name):
    assert ours["momentum"][name] == pytest.approx(FACTS["momentum"][name], rel=1e-6)


@pytest.mark.parametrize("name", FACTS["groups"])
def test_parameter_groups_are_those_of_mmcv(ours, name):
    assert ours["groups"][name] == FACTS["groups"][name]


@pytest.mark.parametrize("what", ["hooks", "text", "json", "files", "latest", "meta", "weights"])
@pytest.mark.parametrize("by", ["epochs", "iterations"])
def test_a_training_leaves_what_mmcv_leaves(ours, by, what):
    assert ours["training"][by][what] == FACTS["training"][by][what]


def test_several_optimizers_by_name(make):
    model = Model()
    optimizers = {"a": torch.optim.SGD([model.weight], 0.1, momentum=0.9),
                  "b": torch.optim.AdamW([model.scale], 0.01)}
    r = make(model, optimizer=optimizers, kind=IterBasedRunner, max_iters=4)
    r.register_lr_hook(dict(policy="OneCycle", max_lr={"a": [0.2], "b": [0.4]}))
    r.register_momentum_hook(dict(policy="OneCycle"))
    r.register_timer_hook(dict(type="IterTimerHook"))
    r.register_logger_hooks(dict(interval=2, hooks=[dict(type="TextLoggerHook", by_epoch=False)]))
    run(r)
    assert r.current_lr() == {"a": [pytest.approx(8e-7)], "b": [pytest.approx(1.6e-6)]}
    assert r.current_momentum() == {"a": [0.95], "b": [0.95]}
    assert "Iter [4/4]\tlr_a: 8.000e-07 lr_b: 1.600e-06, eta: 0:00:00" in r.text.getvalue()
    r.save_checkpoint(r.work_dir)
    again = make(model, optimizer=optimizers, kind=IterBasedRunner, max_iters=4)
    again.resume(os.path.join(r.work_dir, "latest.pth"))
    assert (again.iter, again.inner_iter) == (4, 4)


def test_hooks_run_by_priority_and_then_in_their_order(make):
    calls = []

    class Note(Hook):
        def __init__(self, name):
            self.name = name

        def before_run(self, r):
            calls.append(self.name)

    r = make()
    for name, priority in [("c", "NORMAL"), ("d", 50), ("e", "lowest"), ("a", "HIGHEST"),
                           ("b", runner.Priority.VERY_HIGH)]:
        r.register_hook(Note(name), priority)
    run(r)
    assert calls == list("abcde")
    with pytest.raises(ValueError, match='"priority" is a reserved attribute'):
        r.register_hook(r.hooks[0])
    with pytest.raises(TypeError, match="hook must be a Hook, got int"):
        r.register_hook(3)
    with pytest.raises(KeyError, match="unknown priority 'first'; known are HIGHEST"):
        r.register_hook(Note("f"), "first")


def test_a_hook_of_both_kinds_of_epoch_is_at_both_stages():
    class Both(Hook):
        def before_epoch(self, r):
            pass

        def after_val_iter(self, r):
            pass

    assert Both().get_triggered_stages() == ["before_train_epoch", "before_val_epoch",
                                             "after_val_iter"]


def test_a_config_is_left_as_it_was(make):
    cfg = dict(policy="step", step=1)
    custom = dict(type="ClosureHook", fn_name="after_run", fn=print, priority="LOW")
    r = make(kind=IterBasedRunner, max_iters=1)
    r.register_training_hooks(cfg, custom_hooks_config=custom)
    assert cfg == dict(policy="step", step=1)
    assert "priority" in custom
    assert r.hooks[0].by_epoch is False


@pytest.mark.parametrize(("build", "message"), [
    (lambda r: runner.build_runner(dict(type="EpochBaseRunner")), "mean EpochBasedRunner"),
    (lambda r: runner.build_optimizer(r.model, dict(type="AdmW")), "mean AdamW"),
    (lambda r: r.register_custom_hooks(dict(type="EmaHook")), "mean EMAHook"),
    (lambda r: r.register_lr_hook(dict(policy="steps")), "StepLrUpdaterHook"),
    (lambda r: r.register_lr_hook(dict(step=3)), "needs the key 'policy'"),
], ids=["runner", "optimizer", "hook", "policy", "no policy"])
def test_an_unknown_name_gets_the_nearest(make, build, message):
    with pytest.raises(KeyError, match=message):
        build(make())


@pytest.mark.parametrize(("kwargs", "message"), [
    (dict(step=0), "step"), (dict(step=1, warmup="slow"), '"slow" is not a supported type'),
    (dict(step=1, warmup="exp"), "warmup_iters"),
    (dict(step=1, warmup="exp", warmup_iters=3, warmup_ratio=2), "warmup_ratio")])
def test_a_policy_that_makes_no_sense_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        lr_updater.StepLrUpdaterHook(**kwargs)


def test_other_policies_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="one of min_lr and min_lr_ratio"):
        lr_updater.CosineAnnealingLrUpdaterHook()
    with pytest.raises(ValueError, match="same length, got 2 and 1"):
        lr_updater.CosineRestartLrUpdaterHook([1, 2], min_lr=0)
    with pytest.raises(AssertionError, match='"by_epoch" = False'):
        lr_updater.CyclicLrUpdaterHook(by_epoch=True)
    with pytest.raises(ValueError, match='"cos" or "linear", instead got log'):
        lr_updater.OneCycleLrUpdaterHook(0.1, anneal_strategy="log")


def test_rules_need_what_they_multiply():
    with pytest.raises(ValueError, match="base_wd should not be None"):
        runner.build_optimizer(Model(), dict(type="SGD", lr=0.1,
                                             paramwise_cfg=dict(norm_decay_mult=0)))
    with pytest.raises(ValueError, match="base_lr should not be None"):
        runner.build_optimizer(Model(), dict(type="Adadelta", weight_decay=1,
                                             paramwise_cfg=dict(bias_lr_mult=2)))
    with pytest.raises(TypeError, match="custom_keys must be a dict"):
        runner.DefaultOptimizerConstructor(dict(lr=1), dict(custom_keys=["a"]))


def test_offsets_of_deformable_convolutions_have_their_own_rate():
    from fastdet.ops import ModulatedDeformConv2dPack

    model = nn.Sequential(OrderedDict(conv=ModulatedDeformConv2dPack(2, 2, 3)))
    optimizer = runner.build_optimizer(model, dict(
        type="SGD", lr=1.0, weight_decay=1.0,
        paramwise_cfg=dict(dcn_offset_lr_mult=0.1, bias_lr_mult=2.0, bias_decay_mult=3.0)))
    rates = {n: (g["lr"], g["weight_decay"])
             for (n, _), g in zip(model.named_parameters(), optimizer.param_groups)}
    assert rates == {"conv.weight": (1.0, 1.0), "conv.bias": (2.0, 3.0),
                     "conv.conv_offset.weight": (0.1, 1.0), "conv.conv_offset.bias": (0.1, 1.0)}


# Checkpoints


def test_what_programs_put_into_metadata_is_read_without_running_anything(tmp_path):
    model, path = Model(), tmp_path / "a.pth"
    meta = dict(score=np.float32(0.25), flag=np.bool_(True), array=np.arange(3.0),
                words=np.array(["a", "bc"]), cfg=ConfigDict(a=dict(b=(1, [2]))),
                ordered=OrderedDict(a=1))
    runner.save_checkpoint(model, str(path), meta=meta)
    got = runner.load_checkpoint(model, str(path))["meta"]
    assert (got["score"], got["flag"], got["cfg"]) == (0.25, True, {"a": {"b": (1, [2])}})
    assert type(got["score"]) is float
    assert got["array"].tolist() == [0, 1, 2]
    assert got["words"].tolist() == ["a", "bc"]
    assert got["mmcv_version"] == "1.7.2"
    # mmcv itself leaves them as they are.
    torch.save({"meta": meta, "state_dict": model.state_dict()}, path)
    got = runner.load_checkpoint(model, str(path))["meta"]
    assert (got["score"], got["cfg"]["a"]["b"]) == (0.25, (1, [2]))


def test_a_checkpoint_that_cannot_be_saved_leaves_the_one_before(make, tmp_path):
    class Full:
        def __reduce__(self):
            raise OSError("no space left")

    r = make()
    r.save_checkpoint(str(tmp_path))
    before = (tmp_path / "epoch_1.pth").read_bytes()
    r.meta = {"a": Full()}
    with pytest.raises(OSError, match="no space left"):
        r.save_checkpoint(str(tmp_path))
    assert (tmp_path / "epoch_1.pth").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["epoch_1.pth", "latest.pth"]


def test_checkpoints_go_where_a_file_client_writes(make, tmp_path):
    from fastdet.mmcv import FileClient
    from fastdet.mmcv.fileio import BaseStorageBackend

    stored = {}

    class Memory(BaseStorageBackend):
        def get(self, filepath):
            return stored[filepath]

        def get_text(self, filepath):
            return stored[filepath].decode()

        def put(self, obj, filepath):
            stored[filepath] = obj

        def put_text(self, obj, filepath):
            stored[filepath] = obj.encode()

        def join_path(self, *parts):
            return "/".join(parts)

        def isfile(self, filepath):
            return filepath in stored

        def remove(self, filepath):
            del stored[filepath]

    FileClient.register_backend("memory", Memory, prefixes="memory", force=True)
    r = make(max_epochs=3, meta={})
    r.register_checkpoint_hook(dict(interval=1, max_keep_ckpts=1, out_dir="memory://runs"))
    r.register_lr_hook(dict(policy="fixed"))
    r.register_timer_hook(dict(type="IterTimerHook"))
    r.register_logger_hooks(dict(interval=2, hooks=[
        dict(type="TextLoggerHook", out_dir="memory://logs", keep_local=False)]))
    run(r)
    name = tmp_path.name
    assert {k for k in stored if k.endswith(".pth")} == {f"memory://runs/{name}/epoch_3.pth"}
    assert r.meta["hook_msgs"]["last_ckpt"] == f"memory://runs/{name}/epoch_3.pth"
    assert any(k.startswith(f"memory://logs/{name}/") and k.endswith(".log.json") for k in stored)
    assert not list(tmp_path.glob("*.log.json"))
    with pytest.raises(ValueError, match="pavi://"):
        runner.save_checkpoint(r.model, "pavi://a/b.pth")


def test_a_run_goes_on_where_it_was(make, tmp_path):
    r = run(make(meta=dict(config="gpu_ids = range(0, 2)\n", hook_msgs=dict(best_score=1))))
    r._epoch -= 1
    r.save_checkpoint(str(tmp_path))
    again = make(max_epochs=3)
    again.resume(str(tmp_path / "latest.pth"))
    assert (again.epoch, again.iter) == (1, 10), "of two GPUs, now on one"
    assert "change of GPU number" in again.text.getvalue()
    assert again.meta["hook_msgs"] == {"best_score": 1}
    run(again)
    assert again.epoch == 3


def test_what_cannot_be_resumed_says_which_file_and_why(make, tmp_path):
    make().save_checkpoint(str(tmp_path))
    whole = tmp_path / "epoch_1.pth"
    (tmp_path / "half.pth").write_bytes(whole.read_bytes()[:500])
    torch.save(Model().state_dict(), tmp_path / "bare.pth")

    class Wider(Model):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

    class Other(Model):
        def __init__(self):
            nn.Module.__init__(self)
            self.query = nn.Parameter(torch.ones(2))

    with pytest.raises(FileNotFoundError, match=r"no\.pth"):
        make().resume(str(tmp_path / "no.pth"))
    with pytest.raises(ValueError, match=r"half\.pth is not a checkpoint"):
        make().resume(str(tmp_path / "half.pth"))
    with pytest.raises(ValueError, match=r"bare\.pth holds weights but no training"):
        make().resume(str(tmp_path / "bare.pth"))
    with pytest.raises(ValueError, match=r"epoch_1\.pth is of another model: .* as query"):
        make(Other()).resume(str(whole))
    with pytest.raises(ValueError, match=r"epoch_1\.pth is of another model: its scale is of"):
        make(Wider()).resume(str(whole))
    make(Wider()).resume(str(whole), resume_optimizer=False)
    model = Model()
    groups = torch.optim.SGD([{"params": [p]} for p in model.parameters()], 0.1)
    with pytest.raises(ValueError, match=r"optimizer SGD in .*epoch_1\.pth does not fit"):
        make(model, optimizer=groups).resume(str(whole))


# Steps


def test_gradients_of_several_iterations_make_one_step(make):
    steps = []

    class Count(torch.optim.SGD):
        def step(self, closure=None):
            steps.append([p.grad.item() for g in self.param_groups for p in g["params"]])

    model = Model()
    r = make(model, optimizer=Count(model.parameters(), 0.1))
    r.register_optimizer_hook(dict(type="GradientCumulativeOptimizerHook", cumulative_iters=2))
    run(r)
    # The gradients of 1 … 5, in pairs; what is left at the end is a step of its own.
    assert steps == [[3.0, 0.75], [7.0, 1.75], [10.0, 2.5]]
    assert "Loss will be divided by 1 in the last 1 iterations" in r.text.getvalue()


@pytest.mark.parametrize("scale", ["dynamic", 512.0, dict(init_scale=1024.0)])
@pytest.mark.parametrize("kind", ["Fp16OptimizerHook", "GradientCumulativeFp16OptimizerHook"])
def test_a_scaled_loss_takes_the_same_steps(make, kind, scale, tmp_path):
    extra = dict(cumulative_iters=2) if kind.startswith("Grad") else {}
    a, b = make(), make()
    a.register_optimizer_hook(dict(type=kind, loss_scale=scale, **extra))
    b.register_optimizer_hook(dict(type=kind.replace("Fp16", ""), **extra))
    run(a)
    run(b)
    assert [p.tolist() for p in a.model.parameters()] == pytest.approx(
        [p.tolist() for p in b.model.parameters()], rel=1e-6)
    state = a.meta["fp16"]["loss_scaler"]
    assert state["scale"] == {"dynamic": 65536.0, 512.0: 512.0}.get(
        scale if not isinstance(scale, dict) else None, 1024.0)
    a.save_checkpoint(str(tmp_path))
    again = make()
    again.resume(str(tmp_path / "latest.pth"))
    again.register_optimizer_hook(dict(type=kind, loss_scale="dynamic", **extra))
    again.call_hook("before_run")
    assert again.hooks[0].loss_scaler.state_dict() == state


def test_an_overflow_takes_no_step_and_halves_the_scale(make):
    class Overflows(Model):
        def train_step(self, data, optimizer, **kwargs):
            return dict(loss=(self.weight * float("inf")).sum(), num_samples=1)

    model = Overflows()
    r = make(model, optimizer=torch.optim.SGD([model.weight], 0.1))
    r.register_optimizer_hook(dict(type="Fp16OptimizerHook", loss_scale="dynamic"))
    run(r)
    assert model.weight.item() == 0.5
    assert r.meta["fp16"]["loss_scaler"]["scale"] == 65536.0 / 2 ** 5
    with pytest.raises(ValueError, match="loss_scale must be"):
        runner.Fp16OptimizerHook(loss_scale="static")


def test_parameters_without_a_gradient_are_named(make):
    class Spare(Model):
        def __init__(self):
            super().__init__()
            self.spare = nn.Parameter(torch.ones(3))

    r = make(Spare())
    r.register_optimizer_hook(dict(detect_anomalous_params=True))
    run(r)
    named = [line for line in r.text.getvalue().splitlines() if "computational graph" in line]
    assert set(named) == {"spare with shape torch.Size([3]) is not in the computational graph "}


def test_the_average_of_weights_is_resumed(make, tmp_path):
    r = make(max_epochs=2)
    r.register_optimizer_hook({})
    r.register_custom_hooks(dict(type="EMAHook", momentum=0.1, warm_up=3))
    r.register_checkpoint_hook(dict(interval=1))
    run(r)
    again = make(max_epochs=2)
    again.register_optimizer_hook({})
    again.register_custom_hooks(dict(type="EMAHook", momentum=0.1, warm_up=3,
                                     resume_from=str(tmp_path / "epoch_1.pth")))
    run(again)
    assert again.model.state_dict() == r.model.state_dict()


def test_an_evaluation_at_once_and_then_by_its_interval(make):
    seen = []

    class At(runner.EvalHook):
        def _do_evaluate(self, r):
            seen.append(r.epoch)

    r = make(max_epochs=6)
    r.register_hook(At(DataLoader(Data()), start=2, interval=3))
    run(r)
    assert seen == [1, 4]
    seen.clear()
    resumed = make(max_epochs=6)
    resumed._epoch = 4
    resumed.register_hook(At(DataLoader(Data()), start=2, interval=3))
    run(resumed)
    assert seen == [4, 4]


@pytest.mark.parametrize(("key", "rule"), [
    ("bbox_mAP", "greater"), ("AR@100", "greater"), ("val_loss", "less"), ("top1_loss", "greater"),
    ("mIoU", "greater"), ("loss", "less")])
def test_the_rule_of_a_score_is_found_by_its_name(key, rule):
    assert runner.EvalHook(DataLoader(Data()), save_best=key).rule == rule


def test_evaluations_that_make_no_sense_are_refused(make):
    loader = DataLoader(Data())
    with pytest.raises(TypeError, match="must be a pytorch DataLoader, but got <class 'list'>"):
        runner.EvalHook([1])
    with pytest.raises(ValueError, match="interval must be a positive number, but got 0"):
        runner.EvalHook(loader, interval=0)
    with pytest.raises(ValueError, match="Cannot infer the rule for key speed"):
        runner.EvalHook(loader, save_best="speed")
    with pytest.raises(KeyError, match="rule must be greater, less or None"):
        runner.EvalHook(loader, save_best="loss", rule="more")
    r = make()
    r.register_hook(runner.EvalHook(DataLoader(Data([1])), save_best="mAP", test_fn=MagicMock()))
    with pytest.raises(KeyError, match=r"save_best='mAP' is none .* bbox_mAP, count, text"):
        run(r)


def test_the_first_iterations_are_profiled(make, tmp_path):
    r = make(kind=IterBasedRunner, max_iters=4)
    r.register_profiler_hook(dict(by_epoch=False, profile_iters=2, activities=["cpu"],
                                  json_trace_path=str(tmp_path / "trace.json")))
    run(r)
    assert "traceEvents" in json.loads((tmp_path / "trace.json").read_text())


# Loggers


SERVICES = {"Wandb": "wandb", "Mlflow": "mlflow", "Neptune": "neptune", "Dvclive": "dvclive",
            "ClearML": "clearml", "Segmind": "segmind"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_logger_without_its_package_says_so(make, name, monkeypatch):
    monkeypatch.setitem(sys.modules, SERVICES[name], None)
    with pytest.raises(ImportError, match=f"{name}LoggerHook needs the package {SERVICES[name]}"):
        make().register_custom_hooks(dict(type=f"{name}LoggerHook"))


@pytest.fixture
def packages(monkeypatch):
    """Packages that note what is asked of them."""

    def fake(*names):
        mock = MagicMock()
        for name in names:
            monkeypatch.setitem(sys.modules, name, mock)
        return mock

    return fake


def logged(make, **cfg):
    r = make(meta=dict(exp_name="E"))
    r.register_optimizer_hook({})
    r.register_timer_hook(dict(type="IterTimerHook"))
    r.register_logger_hooks(dict(interval=5, hooks=[cfg]))
    return run(r)


TAGS = {"train/loss": pytest.approx(2.0, abs=1.0), "train/acc": 1.5, "learning_rate": 0.1,
        "momentum": 0.9}


def test_each_service_gets_the_numbers(make, packages):
    wandb = packages("wandb")
    logged(make, type="WandbLoggerHook", init_kwargs=dict(project="p"),
           define_metric_cfg=dict(loss="min"))
    wandb.init.assert_called_once_with(project="p")
    wandb.define_metric.assert_called_once_with("loss", summary="min")
    assert wandb.log.call_args.kwargs == dict(step=5, commit=True)
    assert set(wandb.log.call_args.args[0]) == set(TAGS)
    mlflow = packages("mlflow", "mlflow.pytorch")
    logged(make, type="MlflowLoggerHook", exp_name="x", log_model=False)
    mlflow.set_experiment.assert_called_once_with("x")
    assert mlflow.log_metrics.call_args.kwargs == dict(step=5)
    neptune = packages("neptune")
    logged(make, type="NeptuneLoggerHook", with_step=False)
    assert neptune.init_run().stop.called
    clearml = packages("clearml")
    logged(make, type="ClearMLLoggerHook")
    names = [c.args[0] for c in clearml.Task.init().get_logger().report_scalar.call_args_list]
    assert set(names) == set(TAGS)
    dvclive = packages("dvclive")
    logged(make, type="DvcliveLoggerHook", dir="d")
    dvclive.Live.assert_called_once_with(dir="d")
    assert dvclive.Live().step == 5
    pavi = packages("pavi")
    logged(make, type="PaviLoggerHook", add_last_ckpt=True)
    mode, tags, step = pavi.SummaryWriter().add_scalars.call_args.args
    assert (mode, set(tags), step) == ("train", {n.removeprefix("train/") for n in TAGS}, 5)
    board = packages("torch.utils.tensorboard")
    r = logged(make, type="TensorboardLoggerHook")
    board.SummaryWriter.assert_called_once_with(os.path.join(r.work_dir, "tf_logs"))
    assert {c.args[0] for c in board.SummaryWriter().add_scalar.call_args_list} == set(TAGS)
    segmind = packages("segmind.tracking.fluent", "segmind.utils.logging_utils")
    logged(make, type="SegmindLoggerHook")
    assert segmind.try_mlflow_log.call_args.kwargs == dict(step=0, epoch=0)


# The rest


def test_small_things(monkeypatch):
    buffer = runner.LogBuffer()
    buffer.update(dict(a=1.0), 2)
    buffer.update(dict(a=4.0), 1)
    buffer.average()
    assert buffer.output == {"a": 2.0}
    buffer.average(1)
    assert buffer.output == {"a": 4.0}
    assert runner.obj_from_dict(dict(type="Linear", in_features=2), nn,
                                dict(out_features=3)).weight.shape == (3, 2)
    runner.set_random_seed(3)
    first = torch.rand(2), np.random.rand()  # noqa: NPY002
    runner.set_random_seed(3)
    assert torch.equal(torch.rand(2), first[0])
    assert np.random.rand() == first[1]  # noqa: NPY002
    scaler = runner.LossScaler(init_scale=8, scale_window=2)
    scaler.update_scale(True)
    assert scaler.loss_scale == 4
    other = runner.LossScaler()
    other.load_state_dict(scaler.state_dict())
    assert other.cur_scale == 4


def test_what_a_runner_needs():
    log = logging.getLogger("x")
    with pytest.raises(TypeError, match=r"logger must be a logging\.Logger"):
        EpochBasedRunner(Model())
    with pytest.raises(AssertionError, match="needs the methods train_step and val_step"):
        EpochBasedRunner(nn.Linear(1, 1), logger=log)
    with pytest.raises(ValueError, match="Only one of"):
        EpochBasedRunner(Model(), logger=log, max_epochs=1, max_iters=1)
    r = EpochBasedRunner(Model(), logger=log, max_epochs=1)
    with pytest.raises(ValueError, match='no method named "foo"'):
        r.run([DataLoader(Data())], [("foo", 1)])
    with pytest.raises(RuntimeError, match="lr is not applicable"):
        r.current_lr()
    with pytest.warns(DeprecationWarning, match="EpochBasedRunner"):
        runner.Runner(Model(), logger=log)
