"""A linear system x' = A x + B u with reward c x', where every prediction of a model can be checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mbrl_lab.config import CONF, build
from mbrl_lab.dynamics import Ensemble, EnsembleTrainer
from mbrl_lab.dynamics.ensemble import Known
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step

SPEC = EnvSpec((3,), torch.float32, 2, discrete=False)
A = torch.tensor([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.0], [0.1, 0.0, 0.7]])
B = torch.tensor([[0.5, 0.0], [0.0, 1.0], [0.3, -0.3]])
C = torch.tensor([1.0, -2.0, 0.5])
EDGE = 1.0


def node(path: str, **settings: Any) -> DictConfig:
    """A file of conf/ with other values."""
    cfg = OmegaConf.merge(OmegaConf.load(CONF / path), settings)
    assert isinstance(cfg, DictConfig)
    cfg.pop("defaults", None)
    return cfg


def ensemble(spec: EnvSpec = SPEC, reward_fn: Any = None, termination_fn: Any = None, **settings: Any) -> Ensemble:
    """conf/dynamics/ensemble.yaml with other values."""
    make = build(node("dynamics/ensemble.yaml", **grouped(settings, GROUPS)))
    model = make(spec, known=Known(reward_fn, termination_fn))
    assert isinstance(model, Ensemble)
    return model


GROUPS = {
    "regression": ("predicts", "target_scale", "gaussian", "noise", "norm", "dropout"),
    "imagination": ("elites", "propagation"),
    "optim": ("lr", "clip", "weight_decay", "anneal_updates"),
}
"""Groups of an ensemble's settings."""


def grouped(settings: dict[str, Any], groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Settings by their last names, each in its group."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        group = next((name for name, keys in groups.items() if key in keys), None)
        (nested if group is None else nested.setdefault(group, {}))[key] = value
    return nested


def trainer(**settings: Any) -> EnsembleTrainer:
    """conf/dynamics/ensemble.yaml's trainer with other values."""
    made = build(OmegaConf.merge(node("dynamics/ensemble.yaml").trainer, settings))
    assert isinstance(made, EnsembleTrainer)
    return made


def fit(**settings: Any) -> Callable[[Any, Replay], Metrics]:
    """A fit by that trainer."""
    return lambda model, replay: trainer(**settings).fit(model, replay, None).metrics


def true_next(obs: Tensor, action: Tensor) -> Tensor:
    return obs @ A.T + action @ B.T


def reward_of(next_obs: Tensor) -> Tensor:
    return next_obs @ C


def grown(replay: Replay, steps: int, noise: float = 0.0, ends: bool = False) -> Replay:
    """`steps` more rows of random actions; with `ends`, an episode ends where the first coordinate exceeds EDGE.

    The third observation's dimension is as the system has it; a time limit of 25 rows cuts every episode short.
    """
    num = replay.num_envs
    newest = replay.latest(1).at(0) if len(replay) else None
    for _ in range(steps):
        over = torch.ones(num, dtype=torch.bool) if newest is None else newest.terminal | (torch.rand(num) < 0.04)
        action = SPEC.sample(num)
        obs = torch.randn(num, 3) if newest is None else newest.obs
        after = true_next(obs, action) + noise * torch.randn(num, 3)
        after = torch.where(over[:, None], torch.randn(num, 3).clamp(max=EDGE), after)
        reward = torch.where(over, torch.zeros(num), reward_of(after))
        terminal = (after[:, 0] > EDGE) & ~over if ends else torch.zeros_like(over)
        newest = Step(torch.where(over[:, None], torch.zeros_like(action), action), after, reward, terminal, over)
        replay.add(newest)
    return replay


def data(steps: int, num: int = 4, noise: float = 0.0, ends: bool = False) -> Replay:
    """A replay of about `steps` * `num` transitions of the system."""
    return grown(Replay(SPEC, 100_000, num, seed=0), steps, noise, ends)


def queries(count: int = 500) -> tuple[Tensor, Tensor]:
    """States like those in the data, and actions."""
    return torch.randn(count, 3), SPEC.sample(count)
