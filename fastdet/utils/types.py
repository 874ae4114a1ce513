"""Names of the types that stand in many signatures."""

from __future__ import annotations

from typing import Any

__all__ = ["HW", "Cfg", "InitCfg", "Size"]

#: A component's config: ``type`` and the arguments. (:class:`fastdet.utils.config.Config` is a
#: whole file of them.)
Cfg = dict[str, Any]

#: What ``init_cfg`` may be: an initialiser's config, a list of them, or none.
InitCfg = Cfg | list[Cfg] | None

#: Height and width.
HW = tuple[int, int]

#: A side or ``(height, width)`` of a kernel, a stride, a padding.
Size = int | tuple[int, int]
