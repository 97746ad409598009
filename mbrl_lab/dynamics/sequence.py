"""The base of world models that are trained on windows of steps: the gradient step, and which steps count."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from mbrl_lab.dynamics.optim import AnnealedOptim
from mbrl_lab.dynamics.trainer import Trainer
from mbrl_lab.nets.adam import anneal
from mbrl_lab.nets.count import save_count
from mbrl_lab.nets.normalise import Standardise
from mbrl_lab.nets.precision import autocast_dtype, differentiate
from mbrl_lab.ops import clip_norm
from mbrl_lab.protocols import WorldModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, FitResult, Metrics, Outcome, Step, Trajectory, Tree

MAX_WINDOWS = 1_024
"""At most so many windows are filtered to draw start states from, which bounds memory."""


class SequenceModel(WorldModel):
    """A world model with features [B, `dim`], trained on windows of `length` steps by the loss of its class."""

    differentiable = True
    scale: Standardise | None
    opt: torch.optim.Optimizer

    def __init__(
        self,
        spec: EnvSpec,
        dim: int,
        length: int,
        optim: AnnealedOptim,
        trainer: Trainer[SequenceModel],
    ) -> None:
        super().__init__(spec, spec.of_features(dim))
        self.dim = dim
        self.length = length
        self.optim = optim
        self.trainer = trainer
        self.updates = 0
        save_count(self, "updates")
        # A belief is inferred from as many steps as the windows of training have.
        self.context_length = length if self.recurrent else 1
        trainer.check_model(self)

    @property
    def predicts(self) -> str:
        return "observations"

    def fit(self, replay: Replay, updates: int | None = None) -> FitResult:
        return self.trainer.fit(self, replay, updates)

    @torch.no_grad()
    def start_states(self, replay: Replay, count: int) -> Tree:
        """[count] posterior states that are not terminal."""
        if not self.recurrent:
            return super().start_states(replay, count)

        # A window starts from a blank state: its first half warms the recurrent state up, its second gives the starts.
        half = self.length // 2
        windows = min(-(-count // (self.length - half)), MAX_WINDOWS)
        steps = replay.sample(windows, self.length)
        states = tree_map_only(Tensor, lambda x: x[half:].flatten(0, 1), self.infer(steps))

        # Nothing follows a termination, so no rollout starts there.
        alive = (~steps.terminal[half:]).flatten().nonzero().flatten()
        drawn = alive[torch.randint(len(alive), (count,), device=alive.device)]
        return tree_map_only(Tensor, lambda x: x[drawn], states)

    def check_memory(self) -> None:
        self.trainer.check_memory(self)

    def store(self, replay: Replay, state: Tree) -> None:
        self.trainer.store(self, replay, state)

    def trainer_state(self) -> dict[str, Any]:
        return self.trainer.state()

    def load_trainer_state(self, state: dict[str, Any]) -> None:
        self.trainer.load_state(state)

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        following = self.advance(state, action)
        return following, self.outcome(self.features(following))

    def imagine_trajectory(self, choose: Callable[[Tensor], Tensor], state: Tree, horizon: int) -> Trajectory:
        """As in the base class, with one call of the reward and termination networks for all steps."""
        features, actions = [_cast(self.features(state))], []
        for _ in range(horizon):
            actions.append(choose(features[-1]))
            state = self.advance(state, actions[-1])
            features.append(_cast(self.features(state)))

        # The outcome of the start states is computed and dropped: slicing their features off first costs more.
        stacked = torch.stack(features)
        reward, cont = (x[1:] for x in self.outcome(stacked))
        return Trajectory(stacked, torch.stack(actions), reward, cont, torch.ones_like(reward, dtype=torch.bool))

    def advance(self, state: Tree, action: Tensor) -> Tree:
        """Next state, without predicting the reward."""
        raise NotImplementedError

    def outcome(self, features: Tensor) -> Outcome:
        """Reward and continuation of arriving in states with features [..., F]."""
        raise NotImplementedError

    def initial_state(self, batch: int, device: torch.device) -> Tree:
        """The state [batch] before anything was observed, of a recurrent model."""
        raise NotImplementedError

    def pack(self, state: Tree) -> dict[str, Tensor]:
        """States [N] of a recurrent model in a compact form for storage."""
        raise NotImplementedError

    def unpack(self, packed: dict[str, Tensor]) -> Tree:
        """The inverse of `pack`."""
        raise NotImplementedError

    def scaled(self, obs: Tensor) -> Tensor:
        """Observations [..., *obs_shape], standardised for the encoder."""
        return obs if self.scale is None else self.scale(obs)

    def count(self, obs: Tensor) -> None:
        """Update the mean and std that observations are standardised by with observations [N, *obs_shape]."""
        if self.scale is not None:
            self.scale.moments.add(obs, torch.ones(len(obs), device=obs.device))

    def loss(self, steps: Step, start: Tree | None) -> tuple[Tensor, Tree, Metrics]:
        """The mean loss [] of windows [L, B], their states [L, B, ...], and metrics.

        `start`: the state [B] at the first step of each window; None: unknown.
        """
        raise NotImplementedError

    def update(self, steps: Step, start: Tree | None = None, parts: int = 1) -> tuple[Tree, Metrics]:
        """One gradient step on windows [L, B], accumulated over `parts` of the batch to need less memory.

        Returns the detached states [L * B] of all steps.
        """
        batch = steps.first.shape[1]
        self.opt.zero_grad()
        states: list[Tree] = []
        sums: Metrics = {}
        for index in torch.arange(batch, device=steps.first.device).chunk(parts):
            part = steps.at((slice(None), index)) if parts > 1 else steps
            part_start = tree_map_only(Tensor, lambda x, i=index: x[i], start)
            loss, state, metrics = self.loss(part, part_start)

            # Losses are means, and parts may differ in size: weighted by size, their gradients add up to the batch's.
            weight = len(index) / batch
            differentiate(loss * weight)
            states.append(tree_map_only(Tensor, lambda x: x.detach(), state))
            sums = {k: sums.get(k, 0.0) + torch.as_tensor(v).detach() * weight for k, v in metrics.items()}

        # Without a bound the norm is still measured, for the log.
        norm = clip_norm(self.parameters(), self.optim.clip or math.inf)
        anneal(self.opt, self.optim.lr, self.updates, self.optim.anneal_updates)
        self.opt.step()
        self.updates += 1
        return concatenated(states), sums | {"model/train/gradient_norm": norm}


def concatenated(states: list[Tree]) -> Tree:
    """Trees of [L, B_i, ...] -> one of [L * B, ...]."""
    return tree_map(lambda *parts: torch.cat(parts, 1).flatten(0, 1), *states)


def unbroken(first: Tensor) -> Tensor:
    """[L, B] bool: steps that belong to the episode in which their window begins."""
    restarted = first.clone()
    restarted[0] = False
    return restarted.cumsum(0) == 0


def _cast(features: Tensor) -> Tensor:
    """Features in the autocast dtype: cast once here, instead of again by every network that reads them."""
    return features.to(autocast_dtype(features.device.type))
