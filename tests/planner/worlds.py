"""Toy world models whose best plan is known."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_lab.protocols import WorldModel
from mbrl_lab.types import EnvSpec, Outcome, Tree


class Toy(WorldModel):
    """A world model that is only imagined in; its state is a dict that begins with a clock [B]."""

    def features(self, state: Tree) -> Tensor:
        return state["time"][:, None].float()


class Track(Toy):
    """Pays -|a_t - target_t|^2: the best plan is the target [B, H, A] itself."""

    def __init__(self, action_dim: int = 2) -> None:
        super().__init__(EnvSpec((1,), torch.float32, action_dim, discrete=False))

    def begin(self, target: Tensor) -> Tree:
        return {"time": torch.zeros(len(target), dtype=torch.int64), "rest": [target, None]}

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        target, nothing = state["rest"]
        wanted = target[torch.arange(len(target)), state["time"].clamp(max=target.shape[1] - 1)]
        reward = -(action - wanted).square().sum(-1)
        return {"time": state["time"] + 1, "rest": [target, nothing]}, Outcome(reward, torch.ones_like(reward))


class Lock(Toy):
    """Pays once, when its whole code [B, H] has been entered: no other sequence of actions is worth anything."""

    def __init__(self, actions: int = 3) -> None:
        super().__init__(EnvSpec((1,), torch.float32, actions, discrete=True))

    def begin(self, code: Tensor) -> Tree:
        return {"time": torch.zeros_like(code[:, 0]), "code": code, "right": torch.ones_like(code[:, 0]).bool()}

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        code, time = state["code"], state["time"]
        right = state["right"] & (action == code[torch.arange(len(code)), time])
        open_now = right & (time + 1 == code.shape[1])
        return {"time": time + 1, "code": code, "right": right}, Outcome(open_now.float(), torch.ones(len(code)))


class Table(Toy):
    """Rewards [T, A] and discounts [T, A] are read off by time and action."""

    def __init__(self, reward: Tensor, discount: Tensor) -> None:
        super().__init__(EnvSpec((1,), torch.float32, reward.shape[1], discrete=True))
        self.reward, self.discount = reward, discount

    def begin(self, batch: int) -> Tree:
        return {"time": torch.zeros(batch, dtype=torch.int64)}

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        time = state["time"]
        return {"time": time + 1}, Outcome(self.reward[time, action], self.discount[time, action])
