"""A config as the text of a Python config file, which evaluates back to the same values."""

from __future__ import annotations

import keyword
import math
from typing import Any

__all__ = ["pretty"]


def pretty(value: Any, depth: int = 0) -> str:
    """A value as source text; a dict, list or tuple that does not fit a line gets one line each."""
    if isinstance(value, dict):
        named = all(isinstance(k, str) and k.isidentifier() and not keyword.iskeyword(k)
                    for k in value)
        items = [f"{k}={pretty(v, depth + 1)}" if named else f"{k!r}: {pretty(v, depth + 1)}"
                 for k, v in value.items()]
        start, end = ("dict(", ")") if named else ("{", "}")
    elif isinstance(value, (list, tuple)):
        items = [pretty(v, depth + 1) for v in value]
        start, end = ("[", "]") if isinstance(value, list) else ("(", ")")
        if isinstance(value, tuple) and len(value) == 1:
            items[0] += ","
    elif isinstance(value, float) and not math.isfinite(value):
        return "(1e999 - 1e999)" if math.isnan(value) else "1e999" if value > 0 else "-1e999"
    else:
        return repr(value)
    line = f"{start}{', '.join(items)}{end}"
    if len(line) + 4 * depth <= 96 and "\n" not in line:
        return line
    pad = " " * 4 * (depth + 1)
    return f"{start}\n{pad}" + f",\n{pad}".join(items) + end
