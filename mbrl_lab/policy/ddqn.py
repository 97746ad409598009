"""DDQN: Q-learning with deep networks, and those options of Rainbow that change its target and its head."""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.augment import random_shift
from mbrl_lab.nets.encoder import MakeEncoder
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.nets.precision import fp32_if_small
from mbrl_lab.ops import clip_norm, masked_mean, n_step_return, pick, polyak, project
from mbrl_lab.policy.cycle import Cycle, forget, shrink_and_perturb
from mbrl_lab.types import EnvSpec, Metrics, Step


class Scalar(nn.Module):
    """The return as one number per action."""

    outputs = 1

    def __init__(self, loss: str) -> None:
        super().__init__()
        self.distance = {"huber": F.smooth_l1_loss, "squared": F.mse_loss}[loss]

    def value(self, out: Tensor) -> Tensor:
        """[..., 1] -> [...]: the expected return."""
        return out.squeeze(-1)

    def target(self, reward: Tensor, discount: Tensor, out: Tensor) -> Tensor:
        """[B]: what to learn where rewards [B] come before the return of `out` [B, 1], discounted by [B]."""
        return reward + discount * self.value(out)

    def error(self, out: Tensor, target: Tensor) -> Tensor:
        """[B] losses."""
        return self.distance(self.value(out), target, reduction="none")

    def surprise(self, out: Tensor, target: Tensor) -> Tensor:
        """[B]: how wrong it was, from 0; what priorities are made of."""
        return (self.value(out) - target).abs()


class Categorical(nn.Module):
    """The return as a distribution over a fixed support (C51, Bellemare et al. 2017)."""

    support: Tensor

    def __init__(self, atoms: int, v_min: float, v_max: float) -> None:
        super().__init__()
        if v_min >= v_max:
            raise ValueError(f"policy.v_min is {v_min}; it must be below policy.v_max, {v_max}")
        self.outputs = atoms
        self.register_buffer("support", torch.linspace(v_min, v_max, atoms), persistent=False)

    def value(self, out: Tensor) -> Tensor:
        """[..., K] -> [...]: the expected return."""
        return (out.softmax(-1) * self.support).sum(-1)

    def target(self, reward: Tensor, discount: Tensor, out: Tensor) -> Tensor:
        """[B, K]: the moved and shrunk distribution of `out` [B, K], projected on the support."""
        moved = reward.unsqueeze(-1) + discount.unsqueeze(-1) * self.support
        return project(moved, out.softmax(-1), self.support)

    def error(self, out: Tensor, target: Tensor) -> Tensor:
        """[B] cross-entropies."""
        return -(target * out.log_softmax(-1)).sum(-1)

    def surprise(self, out: Tensor, target: Tensor) -> Tensor:
        """[B]: the relative entropy of the target (as in Rainbow), which is 0 where all is learned."""
        return (self.error(out, target) + torch.xlogy(target, target).sum(-1)).clamp(min=0)


class QNetwork(nn.Module):
    """Observations [B, ...] -> [B, A, K]; `dueling` has layers apart for value and advantage (Wang et al. 2016)."""

    def __init__(
        self, spec: EnvSpec, encoder: MakeEncoder, width: int, depth: int, dueling: bool, outputs: int
    ) -> None:
        super().__init__()
        self.encoder, self.outputs = encoder(spec), outputs
        sizes = [self.encoder.dim, *[width] * depth]
        self.advantage = mlp([*sizes, spec.action_dim * outputs], fp32_output=True)
        self.base = mlp([*sizes, outputs], fp32_output=True) if dueling else None

    def forward(self, obs: Tensor) -> Tensor:
        features = self.encoder(obs)
        advantage = fp32_if_small(self.advantage, features).unflatten(-1, (-1, self.outputs))
        if self.base is None:
            return advantage
        base = fp32_if_small(self.base, features).unsqueeze(-2)
        return base + advantage - advantage.mean(-2, keepdim=True)


class DDQN(nn.Module):
    """Q-learning with a target network, `double` (van Hasselt et al. 2016), on returns of `n_step` steps.

    `atoms` above 1 learns the return's distribution. Every `target_every` updates the target goes the share `tau` of
    the way to the network. Epsilon falls with the count of updates, so that neither evaluation nor imagination moves
    it. At a reset, of which see `Cycle`, the encoder goes the share `shrink` of the way to fresh weights, and all else
    begins anew. Images are learned from as `random_shift` moves them. Raises ValueError for continuous actions, and
    where what is not an image should be shifted.
    """

    updates: Tensor

    def __init__(
        self,
        spec: EnvSpec,
        encoder: MakeEncoder,
        width: int,
        depth: int,
        double: bool,
        dueling: bool,
        n_step: int,
        n_step_start: int,
        gamma: float,
        gamma_start: float,
        anneal_updates: int,
        reset_every: int,
        reset_until: int,
        shrink: float,
        random_shift: int,
        atoms: int,
        v_min: float,
        v_max: float,
        tau: float,
        target_every: int,
        epsilon_start: float,
        epsilon_end: float,
        epsilon_updates: int,
        epsilon_eval: float,
        loss: str,
        lr: float,
        clip: float,
    ) -> None:
        super().__init__()
        if not spec.discrete:
            raise ValueError(f"ddqn needs discrete actions, not vectors of {spec.action_dim} numbers")
        if random_shift and len(spec.obs_shape) != 3:
            raise ValueError(f"policy.random_shift is {random_shift}; it must be 0 where observations are no images")
        if random_shift and 2 * random_shift >= min(spec.obs_shape[1:]):
            most = (min(spec.obs_shape[1:]) - 1) // 2
            raise ValueError(f"policy.random_shift is {random_shift}; with these images it must be at most {most}")
        self.spec, self.double_q, self.shrink, self.shift = spec, double, shrink, random_shift
        self.cycle = Cycle(reset_every, reset_until, n_step_start, n_step, gamma_start, gamma, anneal_updates)
        self.window = self.cycle.longest + 1
        self.tau, self.target_every, self.clip = tau, target_every, clip or math.inf
        self.epsilon_start, self.epsilon_end, self.epsilon_updates = epsilon_start, epsilon_end, epsilon_updates
        self.epsilon_eval = epsilon_eval
        self.head = Scalar(loss) if atoms == 1 else Categorical(atoms, v_min, v_max)
        self.fresh = partial(QNetwork, spec, encoder, width, depth, dueling, self.head.outputs)
        self.online = self.fresh()
        self.slow = copy.deepcopy(self.online).requires_grad_(False)
        self.opt = Adam(self.online.parameters(), lr)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def epsilon(self) -> Tensor:
        """[]: the probability of a random action, which falls linearly."""
        share = (self.updates / max(self.epsilon_updates, 1)).clamp(max=1)
        return self.epsilon_start + share * (self.epsilon_end - self.epsilon_start)

    @torch.no_grad()
    def act(self, features: Tensor, explore: bool) -> Tensor:
        if not explore and not self.epsilon_eval:
            return self.greedy(features)
        batch, device = len(features), features.device
        random = torch.rand(batch, device=device) < (self.epsilon() if explore else self.epsilon_eval)
        drawn = self.spec.random(batch, device)
        if device.type == "cpu" and random.all():  # elsewhere to ask would take longer
            return drawn
        return torch.where(random, drawn, self.greedy(features))

    def value(self, features: Tensor) -> Tensor:
        """[B]: the value of the best action."""
        return self.head.value(self.online(features)).amax(-1)

    def greedy(self, features: Tensor) -> Tensor:
        """[B] actions of greatest value."""
        return self.head.value(self.online(features)).argmax(-1)

    def update(self, steps: Step) -> Metrics:
        return self.update_weighted(steps, torch.ones_like(steps.reward[0]))[0]

    def update_weighted(self, steps: Step, weight: Tensor) -> tuple[Metrics, Tensor]:
        """One gradient step on the actions that the first rows of windows [window, B] led to."""
        assert len(steps.first) == self.window, (len(steps.first), self.window)
        t = steps.transitions()
        target, valid = self.target(steps), t.valid[0]
        out = pick(self.online(self.see(t.obs[0])), t.action[0])
        loss = masked_mean(weight * self.head.error(out, target), valid)
        norm = self._descend(loss)
        out = out.detach()
        metrics: Metrics = {
            "policy/loss": loss.detach(),
            "policy/q": masked_mean(self.head.value(out), valid),
            "policy/gradient_norm": norm,
            "policy/epsilon": self.epsilon(),
        }
        return metrics, valid * self.head.surprise(out, target)

    @torch.no_grad()
    def target(self, steps: Step) -> Tensor:
        """What the return after the first row of each window [window, B] should be."""
        t = steps.transitions()
        n, gamma = self.cycle.horizon(self.updates)
        within = torch.arange(self.window - 1, device=t.valid.device).unsqueeze(-1) < n
        reward, discount, length = n_step_return(t.reward, t.terminal, t.valid & within, gamma)
        obs = self.see(steps.obs[length, torch.arange(len(length), device=length.device)])
        out = self.slow(obs)
        action = self.head.value(self.online(obs) if self.double_q else out).argmax(-1)
        return self.head.target(reward, discount, pick(out, action))

    def see(self, obs: Tensor) -> Tensor:
        """[B, ...] as they are learned from."""
        return random_shift(obs, self.shift) if self.shift else obs

    def _descend(self, loss: Tensor) -> Tensor:
        """One step of both networks, and a reset where one is due; the gradient's norm."""
        norm = clip_norm(self.opt.differentiate(loss), self.clip)
        self.opt.step()
        self.updates += 1
        if self.target_every == 1 or int(self.updates) % self.target_every == 0:
            polyak(self.slow.parameters(), self.online.parameters(), self.tau)
        if self.cycle.due(self.updates):
            self.reset()
        return norm

    def reset(self) -> None:
        """Shrink and perturb, as in BBF: keep of what was learned what the encoder keeps, and nothing else."""
        shrink_and_perturb(self.online, self.fresh(), self.shrink)
        self.slow.load_state_dict(self.online.state_dict())
        forget(self.opt)
