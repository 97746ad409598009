"""Implicit: a latent model without a decoder, whose latents only predict each other (TD-MPC2, Hansen et al. 2024).

z_0 = encode(x_0)                          the first step of a window
z_t = step(z_{t-1}, a_{t-1})               its other steps, unrolled with the actions taken; both end in SimNorm
loss = mean over t of rho^t [ consistency * |z_{t+1} - sg(encode(x_{t+1}))|^2
                              - 0.1 log p(r_{t+1} | z_t, a_t) - log p(continue_{t+1} | z_{t+1}) ]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.optim import AnnealedOptim
from mbrl_lab.dynamics.sequence import SequenceModel, unbroken
from mbrl_lab.dynamics.trainer import Trainer
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.decoder import make_standardiser
from mbrl_lab.nets.encoder import MakeEncoder
from mbrl_lab.nets.heads import make_head, zero_output
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.protocols import WorldModel
from mbrl_lab.types import EnvSpec, Metrics, Outcome, Step, Trajectory, Tree

REWARD = 0.1
"""Weight of the reward's loss (TD-MPC2)."""


class SimNorm(nn.Module):
    """Softmax of each `group` neighbouring numbers: the latent is a few soft choices, and cannot grow (TD-MPC2)."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return x.float().unflatten(-1, (-1, self.group)).softmax(-1).flatten(-2)


@dataclass(frozen=True)
class ImplicitState:
    """The latent vector z. ValueError for a size that SimNorm cannot divide."""

    size: int
    simplex: int
    """Numbers that each softmax of SimNorm is taken over (TD-MPC2: 8)."""
    consistency: float
    """Weight of the distance between predicted and encoded latents (TD-MPC2: 20)."""
    rho: float
    """Weight of a step relative to the one before it (TD-MPC2: 0.5)."""

    def __post_init__(self) -> None:
        if self.size % self.simplex:
            allowed = f"a multiple of dynamics.state.simplex, {self.simplex}"
            raise ValueError(f"dynamics.state.size is {self.size}; it must be {allowed}")


class Unrolled(NamedTuple):
    """Windows [L, B] as the model sees them."""

    loss: Tensor  # []
    predicted: Tensor  # [L, B, D] latents, the first encoded and the others unrolled, with gradients
    encoded: Tensor  # [L, B, D] latents of the observations, without gradients
    weight: Tensor  # [L - 1, B] of each transition; they sum to one
    metrics: Metrics


class Implicit(SequenceModel):
    """See the top of this file. Its state is the vector z; vector observations are standardised."""

    learns_jointly = True
    opt: Adam

    def __init__(
        self,
        spec: EnvSpec,
        encoder: MakeEncoder,
        state: ImplicitState,
        width: int,
        depth: int,
        length: int,
        bins: int,
        optim: AnnealedOptim,
        trainer: Trainer[SequenceModel],
    ) -> None:
        """
        Args:
            spec: of the observations.
            encoder: makes the encoder of observations.
            state: the latent vector.
            width: units of a hidden layer.
            depth: hidden layers.
            length: steps in a window.
            bins: rewards are a distribution over so many bins (two-hot); 0: a number.
            optim: settings of Adam.
            trainer: fits the model to replay, where it learns alone.
        """
        super().__init__(spec, state.size, length, optim, trainer)
        self.state = state
        latent, hidden = state.size, [width] * depth
        inputs = latent + spec.action_dim

        self.encoder = encoder(spec)
        self.scale = make_standardiser(spec, self.encoder)
        self.to_latent = self._normed([self.encoder.dim, *hidden, latent])
        self.transition = self._normed([inputs, *hidden, latent])

        self.head = make_head(bins)
        rewards = [inputs, *hidden, self.head.outputs]
        self.reward = zero_output(mlp(rewards, True, activation=nn.Mish, fp32_output=True))
        self.termination = zero_output(mlp([latent, *hidden, 1], True, activation=nn.Mish))

        self.opt = Adam(self.parameters(), optim.lr)

    def observe(self, state: Tree | None, step: Step) -> Tensor:
        return self._encode(step.obs)

    def advance(self, state: Tree, action: Tensor) -> Tensor:
        return self.transition(self._inputs(state, action))

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        # Unlike in other sequence models the reward depends on the action, as there is no decoder that would keep it.
        inputs = self._inputs(state, action)
        following = self.transition(inputs)
        cont = torch.sigmoid(-self.termination(following).float().squeeze(-1))
        return following, Outcome(self.head.mean(self.reward(inputs)), cont)

    def imagine_trajectory(self, choose: Callable[[Tensor], Tensor], state: Tree, horizon: int) -> Trajectory:
        return WorldModel.imagine_trajectory(self, choose, state, horizon)

    def features(self, state: Tree) -> Tensor:
        return state

    def loss(self, steps: Step, start: Tree | None) -> tuple[Tensor, Tree, Metrics]:
        unrolled = self.joint_loss(steps)
        return unrolled.loss, unrolled.encoded, unrolled.metrics

    def joint_loss(self, steps: Step) -> Unrolled:
        """The loss of windows [L, B], and the latents that other losses may train, too."""
        self.count(steps.obs.flatten(0, 1))

        # Targets have no gradient: an encoder that may follow its predictions would learn one latent for everything.
        with torch.no_grad():
            encoded = self._encode(steps.obs)
        z, rewards = [self._encode(steps.obs[0])], []
        for action in steps.action[1:]:
            inputs = self._inputs(z[-1], action)
            rewards.append(self.reward(inputs))
            z.append(self.transition(inputs))
        predicted, reward = torch.stack(z), torch.stack(rewards)

        # Windows may run into the next episode, whose steps do not follow from the first encoding.
        age = torch.arange(len(reward), device=reward.device).unsqueeze(1)
        weight = unbroken(steps.first)[1:] * self.state.rho**age
        weight = weight / weight.sum().clamp(min=1e-6)

        logit = self.termination(predicted[1:]).float().squeeze(-1)
        terminal = steps.terminal[1:].float()
        distance = (predicted[1:] - encoded[1:]).square().mean(-1)
        losses = {
            "consistency": self.state.consistency * distance,
            "reward/loss": REWARD * self.head.loss(reward, steps.reward[1:]),
            "termination/loss": F.binary_cross_entropy_with_logits(logit, terminal, reduction="none"),
        }
        sums = {name: (weight * x).sum() for name, x in losses.items()}
        total = torch.stack(list(sums.values())).sum()
        metrics: Metrics = {f"model/train/{name}": x.detach() for name, x in sums.items()}
        metrics |= {
            "model/train/loss": total.detach(),
            "model/train/latent/rmse": (weight * distance.detach()).sum().sqrt(),
            "model/train/latent/std": encoded.flatten(0, 1).std(0).mean(),
        }
        return Unrolled(total, predicted, encoded, weight, metrics)

    def _encode(self, obs: Tensor) -> Tensor:
        return self.to_latent(self.encoder(self.scaled(obs)))

    def _inputs(self, z: Tensor, action: Tensor) -> Tensor:
        return torch.cat([z, self.spec.encode_action(action)], -1)

    def _normed(self, sizes: list[int]) -> nn.Sequential:
        net = mlp(sizes, True, activation=nn.Mish)
        return nn.Sequential(net, nn.LayerNorm(sizes[-1]), SimNorm(self.state.simplex))
