"""What world models that learn from windows of rows share: a gradient step, and what their losses are summed over."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from mbrl_lab.nets.anneal import anneal
from mbrl_lab.nets.precision import differentiate
from mbrl_lab.nets.running import Standardise
from mbrl_lab.ops import clip_norm
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Outcome, Step, Tree


class SequenceModel(nn.Module):
    """A WorldModel with features [B, `dim`], trained on windows of `length` rows by the loss of its class.

    In the second half of `anneal_updates` its learning rate falls to a hundredth; 0: never.
    """

    dim: int
    scale: Standardise | None
    opt: torch.optim.Optimizer
    updates: Tensor

    row_blocks = 1

    def __init__(self, spec: EnvSpec, length: int, lr: float, clip: float, anneal_updates: int) -> None:
        super().__init__()
        self.spec, self.length, self.lr, self.clip, self.anneal_updates = spec, length, lr, clip, anneal_updates
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def observe(self, state: Tree | None, step: Step) -> Tree:
        raise NotImplementedError

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        after = self.advance(state, action)
        return after, self.outcome(self.features(after))

    def advance(self, state: Tree, action: Tensor) -> Tree:
        """The state that follows, without a word of what it pays."""
        raise NotImplementedError

    def outcome(self, features: Tensor) -> Outcome:
        """What it meant to arrive in states with features [..., F]."""
        raise NotImplementedError

    def features(self, state: Tree) -> Tensor:
        raise NotImplementedError

    def reached(self, replay: Replay, indices: Tensor) -> Tensor:
        """Of indices [N] those whose state replay still has: all of them, since `recall` knows nothing from before."""
        return indices

    def recall(self, replay: Replay, indices: Tensor) -> Tree:
        """[N, ...]: states that indices [N] of replay would begin, as if nothing had been seen before."""
        return self.observe(None, replay.read(indices, 1).at(0))

    def scaled(self, obs: Tensor) -> Tensor:
        """Observations [..., *obs_shape] as the encoder sees them."""
        return obs if self.scale is None else self.scale(obs)

    def count(self, obs: Tensor) -> None:
        """Let observations [N, *obs_shape] have a say in what they are standardised by."""
        if self.scale is not None:
            self.scale.moments.add(obs, torch.ones(len(obs), device=obs.device))

    @property
    def tells(self) -> bool:
        """Whether it has learned to tell observations."""
        return True

    def decode(self, state: Tree) -> Tensor:
        """[..., *obs_shape]: what observations would be, in their own units."""
        raise NotImplementedError

    def loss(self, steps: Step, start: Tree | None) -> tuple[Tensor, Tree, Metrics]:
        """Of windows [L, B], [] the mean over rows and windows, the states [L, B, ...], and what it consists of.

        `start`: the state [B] in each window's first row; None: not known.
        """
        raise NotImplementedError

    def update(self, steps: Step, start: Tree | None = None, parts: int = 1) -> tuple[Tree, Metrics]:
        """One gradient step on windows [L, B], gathered over so many `parts` of them, to need less memory at once.

        Returns the states [L * B] at all rows, without gradients.
        """
        batch = steps.first.shape[1]
        self.opt.zero_grad()
        states: list[Tree] = []
        sums: Metrics = {}
        for index in torch.arange(batch, device=steps.first.device).chunk(parts):
            part = steps.at((slice(None), index)) if parts > 1 else steps
            begun = tree_map_only(Tensor, lambda x, i=index: x[i], start)
            loss, state, metrics = self.loss(part, begun)
            share = len(index) / batch
            differentiate(loss * share)
            states.append(tree_map_only(Tensor, lambda x: x.detach(), state))
            sums = {k: sums.get(k, 0.0) + torch.as_tensor(v).detach() * share for k, v in metrics.items()}
        norm = clip_norm(self.parameters(), self.clip or math.inf)
        anneal(self.opt, self.lr, self.updates, self.anneal_updates)
        self.opt.step()
        self.updates += 1
        return concatenated(states), sums | {"model/gradient_norm": norm}


def concatenated(states: list[Tree]) -> Tree:
    """Trees of [L, B_i, ...] -> one of [L * B, ...]."""
    return tree_map(lambda *parts: torch.cat(parts, 1).flatten(0, 1), *states)


def unbroken(first: Tensor) -> Tensor:
    """[L, B] bool: rows that belong to the episode in which their window begins."""
    begun = first.clone()
    begun[0] = False
    return begun.cumsum(0) == 0
