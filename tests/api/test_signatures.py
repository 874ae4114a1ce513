"""The public API is MMDetection 2.26's: names, arguments in order, kinds and defaults.

``signatures.json`` holds what the API document of MMDetection 2.26 shows under ``documented``, and
of the classes beside them, which other code imports by their module, under ``undocumented``. A
class is a table of its methods (``__init__`` for the constructor), a function a string; a
signature is written as Python writes it, without ``self``.

Where the document is not followed to the letter:

* ``BFP``, ``HRFPN`` and ``RFP``: it prints the title of the class in place of the arguments. The
  arguments stand here in the order of MMDetection's constructors, as records and configs use them.
* ``SimplifiedBasicBlock(init_fg)``, ``CSPDarknet(arch_ovewrite, spp_kernal_sizes)`` and
  ``NormedLinear(tempearture)`` really are spelled so.
* A default that is a list there may be a tuple here: nobody can change it for the next caller.
* ``EdgeResidual`` swallows unknown arguments there; here they are an error.
* An undocumented class may take further keyword-only arguments: no call that was written for
  MMDetection meets them.
"""

import importlib
import inspect
import json
from pathlib import Path

import pytest
import torch

SIGNATURES = json.loads((Path(__file__).parent / "signatures.json").read_text())


def rows():
    for section, names in SIGNATURES.items():
        for path, methods in names.items():
            if isinstance(methods, str):
                yield pytest.param(section, path, None, methods, id=f"{section}-{path}")
            else:
                for method, text in methods.items():
                    yield pytest.param(section, path, method, text, id=f"{section}-{path}.{method}")


def find(path):
    """``'models.backbones.pvt.MixFFN'`` to what fastdet has under that name."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"fastdet.{module}"), name)


def comparable(default):
    """A default with tuples for lists, so that the two compare equal at any depth."""
    if isinstance(default, (list, tuple)):
        return tuple(comparable(v) for v in default)
    if isinstance(default, dict):
        return {k: comparable(v) for k, v in default.items()}
    return default


def facts(signature):
    """Name, kind and default of every argument; type, too, for ``True == 1 == 1.0``."""
    return [(p.name, p.kind.description, comparable(p.default), type(comparable(p.default)))
            for p in signature.parameters.values()]


def check(section, signature, text):
    """Hold a signature against what is written of it."""
    want, got = facts(written(text)), facts(signature)
    if section == "undocumented":
        known = {name for name, *_ in want}
        got = [row for row in got if row[0] in known or row[1] != "keyword-only"]
    assert got == want


def written(text):
    """The signature that ``text`` writes down."""
    return inspect.signature(eval(f"lambda {text}: None", {"torch": torch}))


def test_the_reader_tells_signatures_apart():
    given = facts(written("a, b=1, *args, c=[1, 2], **kwargs"))
    assert given == facts(written("a, b=1, *args, c=(1, 2), **kwargs"))
    for other in ("a, b=1, *args, c=(1, 2)", "a, b=True, *args, c=[1, 2], **kwargs",
                  "b, a=1, *args, c=[1, 2], **kwargs", "a, b=1, c=[1, 2], **kwargs",
                  "a, b=1, *args, c=[1, 3], **kwargs"):
        assert given != facts(written(other)), other


@pytest.mark.parametrize(("section", "path", "method", "text"), list(rows()))
def test_signature(section, path, method, text):
    owner = find(path)
    if method in (None, "__init__"):
        assert inspect.isclass(owner) == (method == "__init__")
        check(section, inspect.signature(owner), text)
        return
    kind, _, name = method.rpartition(" ")
    found = inspect.getattr_static(owner, name)
    assert isinstance(found, property) == (text == "property")
    assert isinstance(found, staticmethod) == (kind == "static")
    if text != "property":
        got = inspect.signature(getattr(owner, name))
        if not kind:
            got = got.replace(parameters=list(got.parameters.values())[1:])  # without self
        check(section, got, text)


@pytest.mark.parametrize("module", ["models.backbones", "models.necks"])
def test_the_module_offers_what_is_documented(module):
    """``from mmdet.models.backbones import *`` brings these names, and no others."""
    documented = {p.rpartition(".")[2] for p in SIGNATURES["documented"]
                  if p.rpartition(".")[0] == module}
    assert set(importlib.import_module(f"fastdet.{module}").__all__) == documented


@pytest.mark.parametrize("module", ["core.anchor", "models.utils"])
def test_the_module_offers_at_least_what_is_documented(module):
    documented = {p.rpartition(".")[2] for p in SIGNATURES["documented"]
                  if p.rpartition(".")[0] == module}
    assert documented <= set(importlib.import_module(f"fastdet.{module}").__all__)


@pytest.mark.parametrize("path", [p for p in SIGNATURES["documented"]
                                  if p.startswith(("models.backbones.", "models.necks."))])
def test_a_component_is_registered_under_its_name(path):
    from fastdet import models

    name = path.rpartition(".")[2]
    assert models.MODELS.get(name) is find(path)
    assert getattr(models, name) is find(path)
