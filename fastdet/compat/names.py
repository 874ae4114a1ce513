"""Which of our modules stands for which module of mmcv and mmdet: the one table of names."""

from __future__ import annotations

import importlib.util

__all__ = ["ELSEWHERE", "RENAMED", "our_module"]

#: Modules whose name differs; all others have ours by :data:`_ROOTS`.
RENAMED = {
    "mmcv.runner.base_module": "fastdet.runner.base_module",
    "mmcv.runner.fp16_utils": "fastdet.runner.fp16",
    "mmcv.utils.config": "fastdet.utils.config",
    "mmcv.utils.registry": "fastdet.utils.registry",
    "mmdet": "fastdet.compat.mmdet",
}

#: Names that MMDetection has in a module whose counterpart stands too low to have them here.
_EVAL_HOOKS = dict.fromkeys(("DistEvalHook", "EvalHook"), "fastdet.apis.eval_hooks")
ELSEWHERE = {
    "mmdet.core.evaluation": _EVAL_HOOKS,
    "mmdet.core": {
        **_EVAL_HOOKS,
        **dict.fromkeys(("CheckInvalidLossHook", "ExpMomentumEMAHook", "LinearMomentumEMAHook",
                         "MemoryProfilerHook", "SetEpochInfoHook", "SyncNormHook",
                         "YOLOXLrUpdaterHook", "YOLOXModeSwitchHook"), "fastdet.apis.hooks"),
        **dict.fromkeys(("auto_fp16", "force_fp32", "wrap_fp16_model"), "fastdet.runner"),
    },
}

#: A package, and where what is below it lies.
_ROOTS = {
    "mmcv.cnn": "fastdet.cnn",
    "mmcv.ops": "fastdet.ops",
    "mmcv": "fastdet.mmcv",
    "mmdet.core.evaluation.eval_hooks": "fastdet.apis.eval_hooks",
    "mmdet.core.hook": "fastdet.apis.hooks",
    "mmdet.utils": "fastdet.apis.utils",
    "mmdet": "fastdet",
}

#: Parts of fastdet that are not mmdet's, though they have a name below it.
_NOT_MMDET = ("cli", "cnn", "compat", "kernels", "mmcv", "ops", "runner", "testing")


def our_module(name: str) -> str | None:
    """Our module for a module of mmcv or, where MMDetection is not installed, of mmdet.

    Returns:
        Its dotted name, or ``None`` if there is none.
    """
    root = next((r for r in _ROOTS if name == r or name.startswith(f"{r}.")), None)
    if root is None:
        return None
    if name == "mmdet":
        return RENAMED[name]
    if root == "mmdet" and name.split(".")[1] in _NOT_MMDET:
        return None
    ours = _ROOTS[root] + name[len(root):]
    try:
        if importlib.util.find_spec(ours) is not None:
            return ours
    except ModuleNotFoundError:  # its parent is no package
        pass
    return RENAMED.get(name)
