"""Evaluation during training, as in ``mmcv.runner.hooks.evaluation``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from operator import gt, lt
from typing import Any, ClassVar

from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from ...utils.misc import is_seq_of
from .checkpoint import output_folder
from .hook import Hook
from .logger import LoggerHook

__all__ = ["DistEvalHook", "EvalHook"]


class EvalHook(Hook):
    """Evaluates on a data set, and keeps the best checkpoint.

    Args:
        dataloader: of a data set with ``evaluate(results, logger, **eval_kwargs)``, which returns
            scores by name.
        start: not before this epoch (or iteration), but then at once; also when resumed later.
        interval: epochs (or iterations) between evaluations.
        by_epoch: count epochs.
        save_best: the score by which a checkpoint is the best, or ``'auto'`` for the first one.
        rule: ``'greater'`` or ``'less'`` is better; found by the score's name if not given.
        test_fn: ``f(model, dataloader)``, which returns results; ``mmcv.engine``'s by default.
        greater_keys: names, or parts of them, of scores that are better the greater they are.
        less_keys: the contrary.
        out_dir: where the best checkpoint is saved; see :class:`CheckpointHook`.
        file_client_args: arguments of ``FileClient``.
        eval_kwargs: for ``evaluate``.

    Raises:
        TypeError: no ``DataLoader``.
        ValueError: ``interval`` or ``start`` is out of range, or no rule is known for a score.
        KeyError: an unknown ``rule``.
    """

    rule_map: ClassVar[dict[str, Callable[[Any, Any], bool]]] = {"greater": gt, "less": lt}
    init_value_map: ClassVar[dict[str, float]] = {"greater": float("-inf"), "less": float("inf")}
    _default_greater_keys: ClassVar[list[str]] = [
        "acc", "top", "AR@", "auc", "precision", "mAP", "mDice", "mIoU", "mAcc", "aAcc"]
    _default_less_keys: ClassVar[list[str]] = ["loss"]

    def __init__(self, dataloader: DataLoader[Any], start: int | None = None, interval: int = 1,
                 by_epoch: bool = True, save_best: str | None = None, rule: str | None = None,
                 test_fn: Callable[..., Any] | None = None,
                 greater_keys: list[str] | None = None, less_keys: list[str] | None = None,
                 out_dir: str | None = None, file_client_args: dict[str, Any] | None = None,
                 **eval_kwargs: Any) -> None:
        if not isinstance(dataloader, DataLoader):
            raise TypeError(f"dataloader must be a pytorch DataLoader, but got {type(dataloader)}")
        if interval <= 0:
            raise ValueError(f"interval must be a positive number, but got {interval}")
        if start is not None and start < 0:
            raise ValueError(f"The evaluation start epoch {start} is smaller than 0")
        if not isinstance(by_epoch, bool):
            raise AssertionError(f"by_epoch should be a boolean, got {by_epoch!r}")
        if not isinstance(save_best, str | None):
            raise AssertionError('"save_best" should be a str or None '
                                 f"rather than {type(save_best)}")
        self.dataloader = dataloader
        self.interval = interval
        self.start = start
        self.by_epoch = by_epoch
        self.save_best = save_best
        self.eval_kwargs = eval_kwargs
        self.initial_flag = True
        self.test_fn: Callable[..., Any] = self._default_test_fn() if test_fn is None else test_fn
        self.greater_keys = self._keys(greater_keys, self._default_greater_keys)
        self.less_keys = self._keys(less_keys, self._default_less_keys)
        if save_best is not None:
            self.best_ckpt_path: Any = None
            self._init_rule(rule, save_best)
        self.out_dir: Any = out_dir
        self.file_client_args = file_client_args

    @staticmethod
    def _default_test_fn() -> Callable[..., Any]:
        from ...engine import single_gpu_test

        return single_gpu_test

    @staticmethod
    def _keys(keys: Any, default: list[str]) -> Any:
        keys = default if keys is None else [keys] if isinstance(keys, str) else keys
        if not is_seq_of(keys, str):
            raise AssertionError(f"greater_keys and less_keys must be lists of names, got {keys!r}")
        return keys

    def _init_rule(self, rule: str | None, key_indicator: str) -> None:
        """Set whether a greater or a smaller score is better.

        By the name: equal to one of ``greater_keys``, or of ``less_keys``; else one of these is a
        part of it. Case does not matter.
        """
        if rule is not None and rule not in self.rule_map:
            raise KeyError(f"rule must be greater, less or None, but got {rule}.")
        if rule is None and key_indicator != "auto":
            name = key_indicator.lower()
            greater, less = ([k.lower() for k in keys]
                             for keys in (self.greater_keys, self.less_keys))
            if name in greater:
                rule = "greater"
            elif name in less:
                rule = "less"
            elif any(k in name for k in greater):
                rule = "greater"
            elif any(k in name for k in less):
                rule = "less"
            else:
                raise ValueError(f"Cannot infer the rule for key {key_indicator}, thus a specific "
                                 "rule must be specified.")
        self.rule = rule
        self.key_indicator = key_indicator
        if rule is not None:
            self.compare_func = self.rule_map[rule]

    def before_run(self, runner: Any) -> None:
        """Choose the folder; take up what a resumed run knows of its best."""
        self.file_client, self.out_dir = output_folder(self.out_dir, runner.work_dir,
                                                       self.file_client_args)
        if self.save_best is None:
            return
        if self.out_dir != runner.work_dir:
            runner.logger.info("The best checkpoint will be saved to %s by %s", self.out_dir,
                               self.file_client.name)
        if runner.meta is None:
            warnings.warn("runner.meta is None. Creating an empty one.", stacklevel=2)
            runner.meta = {}
        self.best_ckpt_path = runner.meta.setdefault("hook_msgs", {}).get("best_ckpt")

    def before_train_iter(self, runner: Any) -> None:
        """Evaluate before the first iteration if ``start`` has passed."""
        if not self.by_epoch and self.initial_flag:
            if self.start is not None and runner.iter >= self.start:
                self.after_train_iter(runner)
            self.initial_flag = False

    def before_train_epoch(self, runner: Any) -> None:
        """Evaluate before the first epoch if ``start`` has passed."""
        if self.by_epoch and self.initial_flag:
            if self.start is not None and runner.epoch >= self.start:
                self.after_train_epoch(runner)
            self.initial_flag = False

    def after_train_iter(self, runner: Any) -> None:
        """Evaluate, if by iterations and it is time."""
        if self.by_epoch or not self._should_evaluate(runner):
            return
        # Loggers come later: what they have of the training is shown before it mixes with scores.
        for hook in runner._hooks:
            if isinstance(hook, LoggerHook):
                hook.after_train_iter(runner)
        runner.log_buffer.clear()
        self._do_evaluate(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Evaluate, if by epochs and it is time."""
        if self.by_epoch and self._should_evaluate(runner):
            self._do_evaluate(runner)

    def _do_evaluate(self, runner: Any) -> None:
        """Test, evaluate, and save if it is the best."""
        results = self.test_fn(runner.model, self.dataloader)
        self._score(runner, results)

    def _score(self, runner: Any, results: Any) -> None:
        runner.log_buffer.output["eval_iter_num"] = len(self.dataloader)
        key_score = self.evaluate(runner, results)
        if self.save_best and key_score:
            self._save_ckpt(runner, key_score)

    def _should_evaluate(self, runner: Any) -> bool:
        """Whether it is time."""
        current = runner.epoch if self.by_epoch else runner.iter
        if self.start is None:
            every = self.every_n_epochs if self.by_epoch else self.every_n_iters
            return every(runner, self.interval)
        return current + 1 >= self.start and (current + 1 - self.start) % self.interval == 0

    def _save_ckpt(self, runner: Any, key_score: Any) -> None:
        """Save, if the score is the best so far, in place of the best before."""
        unit = "epoch" if self.by_epoch else "iter"
        now = (runner.epoch if self.by_epoch else runner.iter) + 1
        messages = runner.meta["hook_msgs"]
        best = messages.get("best_score", self.init_value_map[self.rule or "greater"])
        if not self.compare_func(key_score, best):
            return
        messages["best_score"] = key_score
        before = self.best_ckpt_path
        had = bool(before) and self.file_client.isfile(before)
        name = f"best_{self.key_indicator}_{unit}_{now}.pth"
        self.best_ckpt_path = self.file_client.join_path(self.out_dir, name)
        messages["best_ckpt"] = self.best_ckpt_path
        runner.save_checkpoint(self.out_dir, filename_tmpl=name, create_symlink=False)
        if had:
            if before != self.best_ckpt_path:
                self.file_client.remove(before)
            runner.logger.info("The previous best checkpoint %s was removed", before)
        runner.logger.info("Now best checkpoint is saved as %s.", name)
        runner.logger.info("Best %s is %0.4f at %d %s.", self.key_indicator, key_score, now, unit)

    def evaluate(self, runner: Any, results: Any) -> Any:
        """Put the scores into the log.

        Returns:
            The one that ``save_best`` names; ``None`` without it, or where there are no scores.
        """
        scores = self.dataloader.dataset.evaluate(  # type: ignore[attr-defined]
            results, logger=runner.logger, **self.eval_kwargs)
        for name, value in scores.items():
            runner.log_buffer.output[name] = value
        runner.log_buffer.ready = True
        if self.save_best is None:
            return None
        if not scores:
            warnings.warn("Since `eval_res` is an empty dict, the behavior to save the best "
                          "checkpoint will be skipped in this evaluation.", stacklevel=2)
            return None
        if self.key_indicator == "auto":
            self._init_rule(self.rule, next(iter(scores)))
        if self.key_indicator not in scores:
            raise KeyError(f"save_best={self.key_indicator!r} is none of the scores that "
                           f"{type(self.dataloader.dataset).__name__}.evaluate gave: "
                           f"{', '.join(scores)}")
        return scores[self.key_indicator]


class DistEvalHook(EvalHook):
    """:class:`EvalHook` on several processes.

    Args:
        dataloader, start, interval, by_epoch, save_best, rule: see :class:`EvalHook`.
        test_fn: ``f(model, dataloader, tmpdir=..., gpu_collect=...)``, whose result on rank 0 is
            that of all processes; ``mmcv.engine``'s by default.
        greater_keys, less_keys, out_dir, file_client_args, eval_kwargs: see :class:`EvalHook`.
        broadcast_bn_buffer: give all processes the running means and variances of rank 0 before.
        tmpdir: a folder that all share, for results; one in the run's folder by default.
        gpu_collect: send results by the process group instead.
    """

    def __init__(self, dataloader: DataLoader[Any], start: int | None = None, interval: int = 1,
                 by_epoch: bool = True, save_best: str | None = None, rule: str | None = None,
                 test_fn: Callable[..., Any] | None = None,
                 greater_keys: list[str] | None = None, less_keys: list[str] | None = None,
                 broadcast_bn_buffer: bool = True, tmpdir: str | None = None,
                 gpu_collect: bool = False, out_dir: str | None = None,
                 file_client_args: dict[str, Any] | None = None, **eval_kwargs: Any) -> None:
        super().__init__(dataloader, start=start, interval=interval, by_epoch=by_epoch,
                         save_best=save_best, rule=rule, test_fn=test_fn,
                         greater_keys=greater_keys, less_keys=less_keys, out_dir=out_dir,
                         file_client_args=file_client_args, **eval_kwargs)
        self.broadcast_bn_buffer = broadcast_bn_buffer
        self.tmpdir = tmpdir
        self.gpu_collect = gpu_collect

    @staticmethod
    def _default_test_fn() -> Callable[..., Any]:
        from ...engine import multi_gpu_test

        return multi_gpu_test

    def _do_evaluate(self, runner: Any) -> None:
        """Test on all processes; evaluate, and save if it is the best, on rank 0."""
        if self.broadcast_bn_buffer:
            for module in runner.model.modules():
                if isinstance(module, _BatchNorm) and module.track_running_stats:
                    for statistic in (module.running_var, module.running_mean):
                        assert statistic is not None
                        dist.broadcast(statistic, 0)
        tmpdir = self.tmpdir or os.path.join(runner.work_dir, ".eval_hook")
        results = self.test_fn(runner.model, self.dataloader, tmpdir=tmpdir,
                               gpu_collect=self.gpu_collect)
        if runner.rank == 0:
            print("\n")  # behind the progress bar
            self._score(runner, results)
