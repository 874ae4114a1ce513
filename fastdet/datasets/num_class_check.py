"""The check that a head has as many classes as the data."""

from __future__ import annotations

from typing import Any

from fastdet.mmcv.runner.hooks import HOOKS, Hook

__all__ = ["NumClassCheckHook"]

#: Modules whose ``num_classes`` is not the data set's.
_OTHER_CLASSES = {"FusedSemanticHead", "GARPNHead", "RPNHead", "VGG"}


@HOOKS.register_module()
class NumClassCheckHook(Hook):
    """Checks that every head has as many classes as the data set before an epoch begins."""

    def _check_head(self, runner: Any) -> None:
        """Compare ``num_classes`` of every module with the data set's CLASSES.

        Raises:
            ValueError: they differ.
        """
        dataset = runner.data_loader.dataset
        classes = getattr(dataset, "CLASSES", None)
        if classes is None:
            runner.logger.warning(f"Please set `CLASSES` in the {type(dataset).__name__} and "
                                  "check if it is consistent with the `num_classes` of head")
            return
        if isinstance(classes, str):
            raise ValueError(f"CLASSES of {type(dataset).__name__} is the string {classes!r}; "
                             f"write ({classes!r},)")
        for name, module in runner.model.named_modules():
            kinds = {kind.__name__ for kind in type(module).__mro__}
            if hasattr(module, "num_classes") and not name.endswith("rpn_head") \
                    and not kinds & _OTHER_CLASSES and module.num_classes != len(classes):
                raise ValueError(f"num_classes of {type(module).__name__} ({name}) is "
                                 f"{module.num_classes}, and {type(dataset).__name__} has "
                                 f"{len(classes)} CLASSES")

    def before_train_epoch(self, runner: Any) -> None:
        """Check before an epoch of training."""
        self._check_head(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """Check before an epoch of validation."""
        self._check_head(runner)
