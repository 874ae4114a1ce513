"""Trainings that mmcv's runner and ours must run alike.

``python tests/runner_cases.py`` under mmcv 1.7.2 writes what it does into ``mmcv/runner.json``.
"""

import io
import json
import logging
import os
import re
import tempfile
from pathlib import Path

import torch
from torch import nn

FACTS = Path(__file__).parent / "mmcv" / "runner.json"

POLICIES = {
    "fixed": dict(policy="fixed"),
    "step": dict(policy="step", step=[2, 4]),
    "step with a floor": dict(policy="step", step=2, gamma=0.5, min_lr=0.03),
    "exp": dict(policy="exp", gamma=0.9),
    "poly": dict(policy="poly", power=0.9, min_lr=1e-3),
    "inv": dict(policy="inv", gamma=0.1, power=0.75),
    "cosine": dict(policy="CosineAnnealing", min_lr_ratio=0.1),
    "flat cosine": dict(policy="FlatCosineAnnealing", start_percent=0.5, min_lr=0.01),
    "restart": dict(policy="CosineRestart", periods=[2, 28], restart_weights=[1, 0.5], min_lr=0.0),
    "linear": dict(policy="LinearAnnealing", min_lr_ratio=0.1),
}
WARMUPS = {
    "none": {},
    "constant": dict(warmup="constant", warmup_iters=7, warmup_ratio=0.3),
    "linear": dict(warmup="linear", warmup_iters=7, warmup_ratio=0.3),
    "exp": dict(warmup="exp", warmup_iters=7, warmup_ratio=0.3),
}
#: By iterations alone.
CYCLES = {
    "cyclic": dict(policy="cyclic"),
    "three cycles": dict(policy="cyclic", target_ratio=(5, 0.1), cyclic_times=3, step_ratio_up=0.3,
                         gamma=0.8, anneal_strategy="linear", warmup="linear", warmup_iters=5),
    "one cycle": dict(policy="OneCycle", max_lr=0.2),
    "three phases": dict(policy="OneCycle", max_lr=0.2, three_phase=True, total_steps=40,
                         anneal_strategy="linear"),
}
MOMENTA = {
    "step": dict(policy="step", step=[2, 4], warmup="exp", warmup_iters=7),
    "cosine": dict(policy="CosineAnnealing", min_momentum=0.5, warmup="linear", warmup_iters=7),
    "linear": dict(policy="LinearAnnealing", min_momentum_ratio=0.5, warmup="constant",
                   warmup_iters=7),
    "cyclic": dict(policy="cyclic", target_ratio=(0.5, 1.0), cyclic_times=3, gamma=0.9,
                   by_epoch=False),
    "one cycle": dict(policy="OneCycle"),
    "three phases": dict(policy="OneCycle", three_phase=True, base_momentum=0.6),
}
PARAMWISE = {
    "multiples": dict(norm_decay_mult=0.0, bias_lr_mult=2.0, bias_decay_mult=0.5,
                      dwconv_decay_mult=0.1, bypass_duplicate=True),
    "keys": dict(custom_keys={"backbone": dict(lr_mult=0.1, decay_mult=0.9),
                              "backbone.1": dict(lr_mult=0.5), "query": dict(decay_mult=0.0),
                              "head": {}}, norm_decay_mult=0.0, bypass_duplicate=True),
}


class Model(nn.Module):
    """A weight; its loss is the weight times the batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def train_step(self, data, optimizer, **kwargs):
        loss = (self.weight * self.scale * data).mean()
        return dict(loss=loss, log_vars=dict(loss=loss.item(), acc=1.5), num_samples=len(data))

    def val_step(self, data, optimizer=None, **kwargs):
        return self.train_step(data, optimizer)


class Data(torch.utils.data.Dataset):
    """Five samples, whose evaluations give one score after the other."""

    def __init__(self, scores=()):
        self.scores = iter(scores)

    def __len__(self):
        return 5

    def __getitem__(self, i):
        return torch.tensor(i + 1.0)

    def evaluate(self, results, logger=None, **kwargs):
        return dict(bbox_mAP=next(self.scores), count=len(results), text="0.1 0.2")


class Net(nn.Module):
    """Norms, depth-wise convolutions, and a weight that two layers share."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4),
                                      nn.Conv2d(4, 4, 3, groups=4))
        self.neck = nn.ModuleList([nn.LayerNorm(4), nn.GroupNorm(2, 4),
                                   nn.InstanceNorm2d(4, affine=True)])
        self.head = nn.Linear(4, 4)
        self.head2 = nn.Linear(4, 4)
        self.head2.weight = self.head.weight
        self.query = nn.Parameter(torch.zeros(3))
        self.backbone[0].weight.requires_grad = False


def logger_to(stream):
    logger = logging.Logger("cases", logging.INFO)
    logger.addHandler(logging.StreamHandler(stream))
    return logger


def schedule(runner, by_epoch, lr=None, momentum=None):
    """The learning rate and momentum of each of 30 iterations."""
    model = Model()
    kind, length = (runner.EpochBasedRunner, dict(max_epochs=6)) if by_epoch else (
        runner.IterBasedRunner, dict(max_iters=30))
    seen = []

    class Watch(runner.Hook):
        def after_train_iter(self, r):
            seen.append((r.current_lr()[0], r.current_momentum()[0]))

    with tempfile.TemporaryDirectory() as work:
        r = kind(model, optimizer=torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
                 logger=logger_to(io.StringIO()), work_dir=work, **length)
        r.register_lr_hook(lr)
        r.register_momentum_hook(momentum)
        r.register_hook(Watch())
        r.run([torch.utils.data.DataLoader(Data())], [("train", 1)])
    return [[float(f"{x:.7g}") for x in values] for values in zip(*seen)]


def groups(runner, paramwise):
    """Name, rate and decay of each parameter group."""
    model = Net()
    optimizer = runner.build_optimizer(model, dict(type="SGD", lr=0.1, weight_decay=0.01,
                                                   paramwise_cfg=paramwise))
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(g["params"][0])], g["lr"], g["weight_decay"]]
            for g in optimizer.param_groups]


def training(runner, by_epoch):
    """What a training logs and leaves."""
    model = Model()
    data = torch.utils.data.DataLoader(Data([0.3, 0.5, 0.4]))
    stream = io.StringIO()
    cfg = dict(type="EpochBasedRunner", max_epochs=3) if by_epoch else dict(
        type="IterBasedRunner", max_iters=11)
    with tempfile.TemporaryDirectory() as work:
        r = runner.build_runner(cfg, dict(
            model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), work_dir=work,
            logger=logger_to(stream), meta=dict(exp_name="E", seed=3)))
        r.timestamp = "now"
        r.register_training_hooks(
            lr_config=dict(policy="step", step=[1]),
            optimizer_config=dict(grad_clip=dict(max_norm=0.1)),
            checkpoint_config=dict(interval=1 if by_epoch else 3, max_keep_ckpts=2),
            log_config=dict(interval=2, hooks=[dict(type="TextLoggerHook")]),
            custom_hooks_config=[dict(type="EMAHook", momentum=0.1, warm_up=3),
                                 dict(type="EmptyCacheHook", priority="HIGHEST")])
        r.register_hook(runner.EvalHook(
            data, interval=1 if by_epoch else 4, by_epoch=by_epoch, save_best="auto",
            rule=None if by_epoch else "less",
            test_fn=lambda model, loader: [0] * len(loader.dataset)), priority="LOW")
        r.run([data, data], [("train", 1), ("val", 1)])
        lines = [json.loads(line) for line in Path(work, "now.log.json").read_text().splitlines()]
        for line in lines:
            line.update((k, 0) for k in ("time", "data_time") if k in line)
        text = re.sub(r"((?:eta|time|data_time|host): )[^,\n]*", r"\1-", stream.getvalue())
        return {
            "hooks": r.get_hook_info(), "text": text.replace(work, "work"),
            "json": [list(line.items()) for line in lines], "files": sorted(os.listdir(work)),
            "latest": os.readlink(os.path.join(work, "latest.pth")),
            "meta": json.loads(json.dumps(r.meta).replace(work, "work")),
            "weights": {k: round(float(v), 5) for k, v in model.state_dict().items()}}


def facts(runner):
    """Everything above, as JSON gives it back."""
    out = {"lr": {}, "momentum": {}, "groups": {}, "training": {}}
    for name, policy in POLICIES.items():
        for warm, extra in WARMUPS.items():
            for by_epoch in (True, False):
                out["lr"][f"{name}, {warm}, {'epochs' if by_epoch else 'iterations'}"] = schedule(
                    runner, by_epoch, lr=dict(policy, by_epoch=by_epoch, **extra))[0]
    for name, policy in CYCLES.items():
        out["lr"][name] = schedule(runner, True, lr=dict(policy))[0]
    for name, policy in MOMENTA.items():
        out["momentum"][name] = schedule(runner, True, momentum=dict(policy))[1]
    for name, paramwise in PARAMWISE.items():
        out["groups"][name] = groups(runner, paramwise)
    for by_epoch in (True, False):
        out["training"]["epochs" if by_epoch else "iterations"] = training(runner, by_epoch)
    return json.loads(json.dumps(out))


if __name__ == "__main__":
    import mmcv.runner

    FACTS.write_text(json.dumps(facts(mmcv.runner), separators=(",", ":")) + "\n")
