"""What a resumed run puts back: it must go on as if it had never stopped."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mbrl_lab.nets.normalise import RewardScale
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.state import (
    generators,
    load_module_state,
    module_state,
    optimizers,
    random_state,
    set_random_state,
    stateful,
)


class Inner(nn.Module):
    """A network with its own optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self._optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-2)


class Learner(nn.Module):
    """One of everything that a run must not forget."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Inner()
        self.members = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])
        self.sgd = {"a": torch.optim.SGD(self.members[0].parameters(), 0.1, momentum=0.9)}
        self.adam = [torch.optim.Adam(self.members[1].parameters())]
        self.schedule = torch.optim.lr_scheduler.StepLR(self.policy._optimizer, 2, 0.5)
        self.scaler = torch.amp.GradScaler("cpu")
        self.shared = self.policy._optimizer
        self.torch_rng = torch.Generator().manual_seed(1)
        self.numpy_rng = np.random.default_rng(1)

    def learn(self) -> float:
        x = torch.rand(16, 3, generator=self.torch_rng) * float(self.numpy_rng.random())
        loss = (self.policy.net(x) - self.members[0](x) - self.members[1](x) + torch.randn(16, 1)).square().mean()
        found = [self.policy._optimizer, self.sgd["a"], self.adam[0]]
        for optimizer in found:
            optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        for optimizer in found:
            self.scaler.step(optimizer)
        self.scaler.update()
        self.schedule.step()
        return loss.item() + random.random() + float(np.random.rand())


class Compiled(nn.Module):
    """Wraps a module as torch.compile does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


def saved(path: Path, learner: nn.Module) -> dict[str, Any]:
    Checkpoint(path).save({"algo": module_state(learner), "random": random_state()})
    loaded = Checkpoint(path).load()
    assert loaded is not None
    return loaded.state


def test_everything_is_found_once() -> None:
    learner = Learner()
    assert set(optimizers(learner)) == {"sgd.a", "adam.0", "shared"}
    assert set(stateful(learner)) == set(optimizers(learner)) | {"schedule", "scaler"}
    assert set(generators(learner)) == {"torch_rng", "numpy_rng"}
    assert set(optimizers(learner.policy)) == {"_optimizer"}


def test_a_resumed_learner_is_equal_bit_for_bit(tmp_path: Path) -> None:
    learner = Learner()
    for _ in range(3):
        learner.learn()
    state = saved(tmp_path, learner)
    straight = [learner.learn() for _ in range(4)]
    resumed = Learner()
    for _ in range(5):
        resumed.learn()
    load_module_state(resumed, state["algo"])
    set_random_state(state["random"])
    assert [resumed.learn() for _ in range(4)] == straight


class WithExtraState(Inner):
    """Has state that only a resume needs, and a module inside with some of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.rows = RewardScale(0.9), [1]

    def get_extra_state(self) -> Any:
        return {"rows": self.rows}

    def set_extra_state(self, state: Any) -> None:
        self.rows = state["rows"]


def test_extra_state_of_the_whole_is_left_out_and_that_of_its_modules_is_not(tmp_path: Path) -> None:
    learner, other = WithExtraState(), WithExtraState()
    learner.rows = [2]
    state = saved(tmp_path, learner)["algo"]
    assert [name for name in state["weights"] if "extra" in name] == ["scale._extra_state"]
    load_module_state(other, state)
    assert other.rows == [1] and torch.equal(other.net[0].weight, learner.net[0].weight)


def test_random_states_survive_a_checkpoint(tmp_path: Path) -> None:
    np.random.standard_normal()
    random.gauss(0, 1)
    state = saved(tmp_path, nn.Module())["random"]

    def draw() -> list[float]:
        return [random.gauss(0, 1), float(np.random.standard_normal()), torch.rand(()).item()]

    expected = draw()
    assert draw() != expected
    set_random_state(state)
    assert draw() == expected


def test_another_model_is_rejected_by_name(tmp_path: Path) -> None:
    state = saved(tmp_path, Inner())["algo"]
    other = Inner()
    other.schedule = torch.optim.lr_scheduler.StepLR(other._optimizer, 2)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"only it has parts \[\], only this run \['schedule'\]"):
        load_module_state(other, state)
    with pytest.raises(ValueError, match=r"weights .*net\.0\.bias"):
        load_module_state(nn.Linear(1, 1), state)
    with pytest.raises(ValueError, match=r"of another model: weight has shape \[1, 2\] in it, \[1, 3\] here"):
        load_module_state(nn.Linear(3, 1), module_state(nn.Linear(2, 1)))


def test_a_run_may_resume_with_its_modules_wrapped_for_compilation(tmp_path: Path) -> None:
    learner = nn.ModuleDict({"policy": Inner()})
    state = saved(tmp_path, learner)["algo"]
    wrapped = nn.ModuleDict({"policy": Compiled(Inner())})
    load_module_state(wrapped, state)
    for a, b in zip(learner.parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(a, b)
    assert set(module_state(wrapped)["parts"]) == set(state["parts"]) == {"policy._optimizer"}


@pytest.mark.gpu
def test_what_was_learned_on_a_gpu_goes_on_on_the_cpu(tmp_path: Path) -> None:
    inner = Inner().cuda()
    inner.net(torch.ones(4, 3, device="cuda")).sum().backward()
    inner._optimizer.step()
    drawn = random_state()
    a = torch.rand(3, device="cuda")
    set_random_state(drawn)
    assert torch.equal(a, torch.rand(3, device="cuda"))
    state = saved(tmp_path, inner)
    resumed = Inner()
    load_module_state(resumed, state["algo"])
    assert {x["exp_avg"].device.type for x in resumed._optimizer.state.values()} == {"cpu"}
    set_random_state(state["random"])
