"""The packages whose models fastdet takes part in, which no test may need."""

import importlib
import importlib.util
import sys

import pytest

import fastdet


def needs(*names):
    """The packages, imported; a test that lacks one is skipped."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision, which the others import")
    fastdet.serve_torchvision()
    if sys.modules.get("kernels") is None:
        # In a checkout transformers would take our folder for the package of that name.
        sys.modules["kernels"] = None
    found = [importlib.import_module(name) for name in names]
    return found[0] if len(found) == 1 else found
