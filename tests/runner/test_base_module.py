import pytest
import torch
from torch import nn

from fastdet.runner import BaseModule, ModuleDict, ModuleList, Sequential


def constant(val, **kwargs):
    return {"type": "Constant", "val": val, "layer": "Linear", **kwargs}


class Leaf(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.fc = nn.Linear(2, 2)


class Parent(BaseModule):
    def __init__(self, child_cfg=None, init_cfg=None):
        super().__init__(init_cfg)
        self.own = nn.Linear(2, 2)
        self.leaf = Leaf(child_cfg)


def test_a_childs_config_wins_over_its_parents():
    m = Parent(child_cfg=constant(2.0), init_cfg=constant(1.0))
    m.init_weights()
    assert (m.own.weight == 1).all()
    assert (m.leaf.fc.weight == 2).all()


def test_a_parents_config_reaches_children_without_one():
    m = Parent(init_cfg=constant(1.0, bias=3.0))
    m.init_weights()
    assert (m.leaf.fc.weight == 1).all()
    assert (m.leaf.fc.bias == 3).all()


def test_a_childs_config_wins_over_its_parents_override():
    m = Parent(child_cfg=constant(2.0),
               init_cfg=constant(1.0, override={"type": "Constant", "name": "leaf", "val": 5.0}))
    m.init_weights()
    assert (m.leaf.fc.weight == 2).all()


def test_without_a_config_nothing_but_the_children_changes():
    m = Parent(child_cfg=constant(2.0))
    before = m.own.weight.clone()
    m.init_weights()
    torch.testing.assert_close(m.own.weight, before, rtol=0, atol=0)
    assert (m.leaf.fc.weight == 2).all()


def test_the_order_is_own_config_then_children_in_order():
    calls = []

    class Logs(BaseModule):
        def __init__(self, name, *children):
            super().__init__()
            self.name = name
            for i, child in enumerate(children):
                self.add_module(str(i), child)

        def init_weights(self):
            calls.append(self.name)
            super().init_weights()

    Logs("root", Logs("a", Logs("a1")), nn.Linear(1, 1), Logs("b")).init_weights()
    assert calls == ["root", "a", "a1", "b"]


def test_children_hidden_in_a_plain_container_are_not_reached():
    # nn.ModuleList has no init_weights(), which is why BaseModule comes with containers.
    m = BaseModule()
    m.plain = nn.ModuleList([Leaf(constant(7.0))])
    m.own = ModuleList([Leaf(constant(7.0))])
    m.init_weights()
    assert not (m.plain[0].fc.weight == 7).any()
    assert (m.own[0].fc.weight == 7).all()


def test_a_second_call_warns_and_does_nothing():
    m = Parent(init_cfg=constant(1.0))
    assert not m.is_init
    m.init_weights()
    assert m.is_init
    assert m.leaf.is_init
    with torch.no_grad():
        m.own.weight.fill_(9)
    with pytest.warns(UserWarning, match="init_weights of Parent has been called more than once"):
        m.init_weights()
    assert (m.own.weight == 9).all()


def test_a_checkpoint_is_not_overwritten_by_the_children(tmp_path):
    saved = Parent().state_dict()
    torch.save(saved, tmp_path / "m.pth")
    cfg = {"type": "Pretrained", "checkpoint": str(tmp_path / "m.pth")}
    m = Parent(child_cfg=constant(2.0), init_cfg=cfg)
    m.init_weights()
    torch.testing.assert_close(m.state_dict(), saved, rtol=0, atol=0)
    assert not m.is_init  # as upstream: a checkpoint can be loaded again
    assert not m.leaf.is_init

    listed = Parent(child_cfg=constant(2.0), init_cfg=[cfg])  # a list is not final
    listed.init_weights()
    assert (listed.leaf.fc.weight == 2).all()
    torch.testing.assert_close(listed.own.weight, saved["own.weight"], rtol=0, atol=0)


def test_init_cfg_is_copied():
    cfg = constant(1.0)
    m = Leaf(cfg)
    cfg["val"] = 5.0
    m.init_weights()
    assert (m.fc.weight == 1).all()
    assert m.init_cfg == constant(1.0)


def test_repr_shows_init_cfg():
    cfg = constant(1.0)
    assert repr(Leaf(cfg)).endswith(f"\ninit_cfg={cfg}")
    assert "init_cfg" not in repr(Leaf())


@pytest.mark.parametrize(("build", "torch_class"), [
    (lambda *m, **k: Sequential(*m, **k), nn.Sequential),
    (lambda *m, **k: ModuleList(m, **k), nn.ModuleList),
    (lambda *m, **k: ModuleDict({str(i): c for i, c in enumerate(m)}, **k), nn.ModuleDict),
], ids=["Sequential", "ModuleList", "ModuleDict"])
def test_containers(build, torch_class):
    m = build(nn.Linear(2, 2), Leaf(constant(2.0)), init_cfg=constant(1.0))
    assert isinstance(m, torch_class)
    assert isinstance(m, BaseModule)
    assert list(m.state_dict()) == ["0.weight", "0.bias", "1.fc.weight", "1.fc.bias"]
    m.init_weights()
    assert (m.get_parameter("0.weight") == 1).all()
    assert (m.get_parameter("1.fc.weight") == 2).all()
    assert m.init_cfg == constant(1.0)
    assert len(build()) == 0


def test_sequential_runs_slices_and_takes_named_modules():
    from collections import OrderedDict

    m = Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.ReLU()), init_cfg=constant(1.0))
    assert list(m._modules) == ["a", "b"]
    x = torch.randn(4, 2)
    torch.testing.assert_close(m(x), m.b(m.a(x)))
    assert isinstance(m[:1], Sequential)
    assert m[:1].init_cfg is None
