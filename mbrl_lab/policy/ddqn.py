"""DDQN: double Q-learning (van Hasselt et al. 2016) with parts of Rainbow (Hessel et al. 2018) and
BBF (Schwarzer et al. 2023).

An update on windows (s_0, a_0, r_1, s_1, ..., r_n, s_n) from replay, of importance w; Q' is the target network:

    R      = r_1 + gamma r_2 + ... + gamma^(n-1) r_n          n-step return, Rainbow eq. 2; shorter before a boundary
    a*     = argmax_a Q(s_n, a)                               double: the online network chooses, the target evaluates
    y      = R + gamma^n Q'(s_n, a*)                          td_target; n: the rewards in R; y = R if one is terminal
    L      = mean of w huber(y - Q(s_0, a_0))                 loss
    p      = |y - Q(s_0, a_0)|                                priority of the window in replay
    Q'    <- (1 - tau) Q' + tau Q                             every `target.every` updates
    shrink and perturb Q, copy it to Q'                       every `resets.every` updates (BBF)

With more than one atom the return is a distribution over atoms z (C51, Bellemare et al. 2017): y is the distribution of
R + gamma^n z projected onto the atoms, L the cross-entropy, and p the KL divergence of y from Q (Rainbow eq. 3).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.augment import random_intensity, random_shift
from mbrl_lab.nets.count import save_count
from mbrl_lab.nets.encoder import MakeEncoder
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.nets.precision import fp32_if_small
from mbrl_lab.ops import masked_mean, n_step_return, pick, polyak, project
from mbrl_lab.policy.resets import Resets, reset_optimizer, shrink_and_perturb
from mbrl_lab.protocols import Policy
from mbrl_lab.types import EnvSpec, Metrics, Step


@dataclass(frozen=True)
class HeadOptions:
    """How Q(s, a) is represented. ValueError for a support without extent."""

    dueling: bool
    """Layers of their own for the state's value and the actions' advantages (Wang et al. 2016)."""
    atoms: int
    """1: Q is a number. More: a distribution over so many returns (C51: 51)."""
    v_min: float
    """The least return of the distribution."""
    v_max: float
    """The largest return of the distribution."""
    loss: str
    """huber | squared, of a number; a distribution has the cross-entropy."""
    norm: bool
    """Layer norm before each activation of the hidden layers."""

    def __post_init__(self) -> None:
        if self.atoms > 1 and self.v_min >= self.v_max:
            raise ValueError(f"policy.head.v_min is {self.v_min}; it must be below policy.head.v_max, {self.v_max}")


@dataclass(frozen=True)
class TDTarget:
    """y, the target of Q(s, a): an n-step return, and the network that evaluates its bootstrap."""

    n_step: int
    """n, the rewards before the bootstrap (Rainbow: 3)."""
    double: bool
    """The online network chooses the action that the target network evaluates. False: the target network does both."""
    tau: float
    """Fraction of the way that the target network moves towards the online network. 1: a copy."""
    every: int
    """Updates between its moves (DQN: 10,000, with tau 1)."""
    acts: bool
    """The target network chooses the actions, in training and in evaluations (BBF). False: the online network does."""


@dataclass(frozen=True)
class Exploration:
    """Epsilon, the probability of a random action. It falls linearly with updates: evaluations do not move it."""

    epsilon_start: float
    epsilon_end: float
    epsilon_updates: int
    """Updates over which it falls from start to end."""
    epsilon_eval: float
    """In evaluations."""

    def epsilon(self, updates: int) -> float:
        """Epsilon after so many updates."""
        fraction = min(updates / max(self.epsilon_updates, 1), 1.0)
        return self.epsilon_start + fraction * (self.epsilon_end - self.epsilon_start)


@dataclass(frozen=True)
class DDQNOptim:
    """A gradient step: Adam, and the augmentation of images that it learns from."""

    lr: float
    eps: float
    """Added to the root of the second moment (Adam: 1e-8; Rainbow and BBF: 1.5e-4)."""
    weight_decay: float
    """Decoupled, as in AdamW: a step shrinks weights by lr times this (BBF: 0.1)."""
    clip: float
    """Largest norm of the gradient (Wang et al. 2016: 10). 0: not clipped."""
    random_shift: int
    """Pixels by which images are moved at random, each way (DrQ, Kostrikov et al. 2021: 4). 0: none."""
    random_intensity: float
    """Images are multiplied by 1 plus this times a clipped normal number (SPR, Schwarzer et al. 2021: 0.05). 0: not."""


class QHead(nn.Module):
    """Q(s, a) as one number."""

    outputs = 1

    def __init__(self, loss: str) -> None:
        super().__init__()
        self.distance = {"huber": F.smooth_l1_loss, "squared": F.mse_loss}[loss]

    def q_values(self, out: Tensor) -> Tensor:
        """[..., 1] -> [...]: the expected return."""
        return out.squeeze(-1)

    def td_target(self, reward: Tensor, discount: Tensor, out: Tensor) -> Tensor:
        """[B]: y for n-step rewards [B], discounts gamma^n [B] and the bootstrap's output [B, 1]."""
        return reward + discount * self.q_values(out)

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """[B]: loss of outputs [B, 1] for targets [B]."""
        return self.distance(self.q_values(out), target, reduction="none")

    def priority(self, out: Tensor, target: Tensor) -> Tensor:
        """[B]: size of the TD error."""
        return (self.q_values(out) - target).abs()


class C51Head(nn.Module):
    """Q(s, a) as the mean of a distribution over atoms (C51, Bellemare et al. 2017)."""

    atoms: Tensor

    def __init__(self, atoms: int, v_min: float, v_max: float) -> None:
        super().__init__()
        self.outputs = atoms
        # They follow from the settings, so no checkpoint holds them.
        self.register_buffer("atoms", torch.linspace(v_min, v_max, atoms), persistent=False)

    def q_values(self, out: Tensor) -> Tensor:
        """[..., K] -> [...]: the expected return."""
        return (out.softmax(-1) * self.atoms).sum(-1)

    def td_target(self, reward: Tensor, discount: Tensor, out: Tensor) -> Tensor:
        """[B, K]: the bootstrap's distribution, from its output [B, K], shifted, shrunk and projected (C51, alg. 1)."""
        # Atoms that leave the support count as its ends, so v_min and v_max must fit the rewards.
        z = reward.unsqueeze(-1) + discount.unsqueeze(-1) * self.atoms
        return project(z, out.softmax(-1), self.atoms)

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """[B]: cross-entropy of outputs [B, K] for target distributions [B, K]."""
        return -(target * out.log_softmax(-1)).sum(-1)

    def priority(self, out: Tensor, target: Tensor) -> Tensor:
        """[B]: KL divergence. The cross-entropy holds the target's entropy too, which no learning lowers."""
        return (self.loss(out, target) + torch.xlogy(target, target).sum(-1)).clamp(min=0)


class QNetwork(nn.Module):
    """Observations [B, ...] -> [B, A, K]: outputs of the head for each action."""

    def __init__(
        self, spec: EnvSpec, encoder: MakeEncoder, width: int, depth: int, dueling: bool, norm: bool, outputs: int
    ) -> None:
        super().__init__()
        self.encoder = encoder(spec)
        self.outputs = outputs
        sizes = [self.encoder.dim, *[width] * depth]
        self.advantage = mlp([*sizes, spec.action_dim * outputs], norm=norm, fp32_output=True)
        self.base = mlp([*sizes, outputs], norm=norm, fp32_output=True) if dueling else None

    def forward(self, obs: Tensor) -> Tensor:
        features = self.encoder(obs)
        advantage = fp32_if_small(self.advantage, features).unflatten(-1, (-1, self.outputs))
        if self.base is None:
            return advantage
        # Without its mean an advantage could take up any part of the value (Wang et al. 2016, eq. 9).
        base = fp32_if_small(self.base, features).unsqueeze(-2)
        return base + advantage - advantage.mean(-2, keepdim=True)


class DDQN(Policy):
    """See the top of this file.

    ValueError for continuous actions, and for augmentation of observations that are no images or are too small.
    """

    estimates_value, learns_by_priority = True, True

    def __init__(
        self,
        spec: EnvSpec,
        encoder: MakeEncoder,
        width: int,
        depth: int,
        gamma: float,
        head: HeadOptions,
        target: TDTarget,
        exploration: Exploration,
        optim: DDQNOptim,
        resets: Resets,
    ) -> None:
        """
        Args:
            spec: of the environment, or of a model's features.
            encoder: makes the encoder of observations.
            width: units of a hidden layer after the encoder.
            depth: hidden layers.
            gamma: discount.
            head: how Q(s, a) is represented.
            target: n, and the target network.
            exploration: epsilon.
            optim: Adam, and the augmentation of images.
            resets: resets, and the annealing of n and gamma after them.
        """
        super().__init__()
        if not spec.discrete:
            raise ValueError(
                f"ddqn needs discrete actions, not vectors of {spec.action_dim} numbers: try policy=sac or ppo"
            )
        check_random_shift(optim.random_shift, spec.obs_shape)
        check_random_intensity(optim.random_intensity, spec.obs_shape)
        self.spec = spec
        self.final_gamma = gamma
        self.target = target
        self.exploration = exploration
        self.clip = optim.clip
        self.resets = resets
        self.random_shift = optim.random_shift
        self.random_intensity = optim.random_intensity

        self.head = QHead(head.loss) if head.atoms == 1 else C51Head(head.atoms, head.v_min, head.v_max)
        self.make_network = partial(QNetwork, spec, encoder, width, depth, head.dueling, head.norm, self.head.outputs)
        self.online = self.make_network()
        # Never optimised: it follows the online network by `polyak`.
        self.target_network = copy.deepcopy(self.online).requires_grad_(False)
        self.opt = Adam(self.online.parameters(), optim.lr, optim.eps, decoupled_decay=optim.weight_decay)
        self.updates = 0
        save_count(self, "updates")

    @property
    def window(self) -> int:
        """Steps in a window of replay: the longest n, and one."""
        return self.resets.longest(self.target.n_step) + 1

    @property
    def n_step(self) -> int:
        """The n of returns now."""
        return self._n_step_and_gamma()[0]

    def _n_step_and_gamma(self) -> tuple[int, float]:
        return self.resets.anneal(self.updates, self.target.n_step, self.final_gamma)

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool) -> Tensor:
        """Epsilon-greedy."""
        if not explore and not self.exploration.epsilon_eval:
            return self.greedy(obs)
        batch, device = len(obs), obs.device
        random = torch.rand(batch, device=device) < (self.epsilon() if explore else self.exploration.epsilon_eval)
        drawn = self.spec.sample(batch, device)

        # Early on, when nearly all actions are random, the network is often not needed. A GPU would be waited for.
        if device.type == "cpu" and random.all():
            return drawn
        return torch.where(random, drawn, self.greedy(obs))

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        return self.q_values(features)

    def epsilon(self) -> float:
        """The probability of a random action now."""
        return self.exploration.epsilon(self.updates)

    def greedy(self, obs: Tensor) -> Tensor:
        """[B] actions of the largest Q."""
        return self.q_values(obs).argmax(-1)

    def value(self, obs: Tensor) -> Tensor:
        """[B]: max_a Q(s, a)."""
        return self.q_values(obs).amax(-1)

    def q_values(self, obs: Tensor) -> Tensor:
        """[B, A]: Q(s, a) of the network that acts."""
        network = self.target_network if self.target.acts else self.online
        return self.head.q_values(network(obs))

    def update(self, steps: Step) -> Metrics:
        return self.update_weighted(steps, torch.ones_like(steps.reward[0]))[0]

    def update_weighted(self, steps: Step, importance: Tensor) -> tuple[Metrics, Tensor]:
        """One gradient step on windows [window, B] of importance [B]; also the windows' priorities [B].

        Windows have two observations [2, B]: s_0, and the one from which the return bootstraps (`Replay.read`).
        """
        assert len(steps.first) == self.window, (len(steps.first), self.window)
        assert len(steps.obs) == 2, len(steps.obs)
        target = self.td_target(steps)
        loss, out = self.loss(steps, target, importance)

        norm = self.opt.minimise_clipped(loss, self.clip)
        self.updates += 1
        if self.updates % self.target.every == 0:
            polyak(self.target_network.parameters(), self.online.parameters(), self.target.tau)
        if self.resets.due(self.updates):
            self.reset()

        # A window that begins at an episode's last step keeps the lowest priority, and is hardly drawn again.
        valid = ~steps.first[1]
        metrics: Metrics = {
            "policy/loss": loss.detach(),
            "policy/q": masked_mean(self.head.q_values(out), valid),
            "policy/gradient_norm": norm,
            "policy/epsilon": self.epsilon(),
        }
        return metrics, valid * self.head.priority(out, target)

    def loss(self, steps: Step, target: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
        """L, the weighted mean over valid windows, and the head's output [B, K] for the actions taken, detached."""
        out = pick(self.online(self.augment(steps.obs[0])), steps.action[1])
        return masked_mean(importance * self.head.loss(out, target), ~steps.first[1]), out.detach()

    @torch.no_grad()
    def td_target(self, steps: Step) -> Tensor:
        """y for the first action of each window [window, B]: [B], or [B, K] for a distribution."""
        # Windows are as long as the longest n; while n is annealed, later steps are left out.
        n, gamma = self._n_step_and_gamma()
        within_n = torch.arange(self.window - 1, device=steps.first.device).unsqueeze(-1) < n
        valid = ~steps.first[1:] & within_n
        reward, discount, _ = n_step_return(steps.reward[1:], steps.terminal[1:], valid, gamma)

        # One random shift for both networks: the action is chosen in the image in which it is evaluated.
        obs = self.augment(steps.obs[1])
        out = self.target_network(obs)
        action = self.head.q_values(self.online(obs) if self.target.double else out).argmax(-1)
        return self.head.td_target(reward, discount, pick(out, action))

    def augment(self, obs: Tensor) -> Tensor:
        """[B, ...]: observations as they are learned from."""
        if self.random_shift:
            obs = random_shift(obs, self.random_shift)
        if self.random_intensity:
            obs = random_intensity(obs, self.random_intensity, self.online.encoder.largest)
        return obs

    def reset(self) -> None:
        """Shrink and perturb (BBF): only the encoder keeps part of what it learned."""
        shrink_and_perturb(self.online, self.make_network(), self.resets.shrink)
        # Else bootstraps would be values of the network before the reset.
        self.target_network.load_state_dict(self.online.state_dict())
        reset_optimizer(self.opt)


def check_random_shift(pixels: int, shape: tuple[int, ...]) -> None:
    """ValueError where observations of this shape cannot be shifted so far."""
    if pixels and len(shape) != 3:
        raise ValueError(f"policy.optim.random_shift is {pixels}; it must be 0 where observations are no images")
    if pixels and 2 * pixels >= min(shape[1:]):
        most = (min(shape[1:]) - 1) // 2
        raise ValueError(f"policy.optim.random_shift is {pixels}; with these images it must be at most {most}")


def check_random_intensity(scale: float, shape: tuple[int, ...]) -> None:
    """ValueError where observations of this shape are no images."""
    if scale and len(shape) != 3:
        raise ValueError(f"policy.optim.random_intensity is {scale}; it must be 0 where observations are no images")
