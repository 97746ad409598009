"""OnPolicy: a policy acts, and learns only from the steps since its previous update."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mbrl_lab.ops import clipped, crossed
from mbrl_lab.protocols import Algo, Policy, option_of
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree


class OnPolicy(Algo):
    """An update every `horizon` steps of each environment, on the transitions of these steps only.

    The last step of one update is the first of the next, so each transition is in exactly one update.
    """

    def __init__(self, spec: EnvSpec, policy: Callable[[EnvSpec], Policy], horizon: int, reward_clip: float) -> None:
        """
        Args:
            spec: the environment's spaces.
            policy: makes the policy.
            horizon: steps of each environment between updates.
            reward_clip: for learning, rewards are clipped to [-reward_clip, reward_clip]; 0: not clipped.
        """
        super().__init__()
        self.policy = policy(spec)
        if self.policy.window is not None or self.policy.learns_through_model:
            name = option_of(type(self.policy))
            raise ValueError(f"algo=ppo cannot learn with {name}, which needs replay or a model: try policy=ppo")
        self.horizon = horizon
        self.reward_clip = reward_clip
        self.actions: list[Tensor] = []  # [B] each, chosen since the previous update

    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        action = self.policy.act(step.obs, explore)
        if explore:
            self.actions.append(action)
        return action, carry

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        # Steps of each environment, however many there are.
        if not crossed(before // replay.num_envs, after // replay.num_envs, self.horizon):
            return {}
        steps = clipped(replay.latest(self.horizon + 1), self.reward_clip)

        # An environment may have replaced the policy's action, such as by pressing FIRE after a lost life.
        chosen = steps.action[1:] == torch.stack([action.to(replay.device) for action in self.actions])
        self.actions = []
        return self.policy.update_on_policy(steps, chosen.view(*steps.first[1:].shape, -1).all(-1))

    def get_extra_state(self) -> Tree:
        return {"actions": list(self.actions)}

    def set_extra_state(self, state: Tree) -> None:
        self.actions = list(state.get("actions", ()))  # the best checkpoint, for evaluations, has none
