"""RSSM: a recurrent state-space model with discrete latents (Hafner et al. 2019, 2021; 2023: "DreamerV3").

deter h_t = GRU(h_{t-1}, z_{t-1}, a_{t-1})        `units` numbers
prior     z_t ~ p(z_t | h_t)                      stoch: `groups` one-hot vectors of `classes` each
posterior z_t ~ q(z_t | h_t, x_t)
decoder   p(x_t, r_t, continue_t | h_t, z_t)

loss = -log p(x_t, r_t, continue_t | h_t, z_t)
       + max(1, KL(sg(q) || p))                      dynamics loss:       trains the prior
       + 0.1 * max(1, KL(q || sg(p)))                representation loss: trains the posterior
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.optim import AnnealedOptim
from mbrl_lab.dynamics.sequence import SequenceModel
from mbrl_lab.dynamics.trainer import Trainer
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.decoder import make_decoder, make_standardiser
from mbrl_lab.nets.encoder import MakeEncoder
from mbrl_lab.nets.gru import BlockGRU
from mbrl_lab.nets.heads import make_head, zero_output
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.nets.precision import fp32_if_few
from mbrl_lab.ops import unimix
from mbrl_lab.types import EnvSpec, Metrics, Outcome, Step, Tree

UNIMIX = 0.01
"""Fraction of a uniform distribution in prior and posterior, which keeps their KL finite (DreamerV3)."""

KL_POSTERIOR = 0.1
"""Weight of the representation loss (DreamerV3). Below 1, the dynamics loss's (KL balancing), the prior learns faster
than the posterior is pulled towards it."""

FREE_NATS = 1.0
"""A KL below it adds no gradient (DreamerV3)."""


@dataclass(frozen=True)
class StateSize:
    """The sizes of a recurrent state."""

    units: int
    """Of the deterministic state, deter."""
    blocks: int
    """Of the GRU's recurrent weights (block-diagonal). 1: a plain GRU."""
    groups: int
    """Categorical latents of the stochastic state, stoch."""
    classes: int
    """Of each latent."""


class RSSM(SequenceModel):
    """See the top of this file.

    Observations are standardised by the mean and std of the first steps of the windows that it was trained on.
    A state is {deter [B, units], stoch [B, groups, classes]}.
    """

    compilable = ("advance", "_infer")
    recurrent, decodes = True, True

    def __init__(
        self,
        spec: EnvSpec,
        encoder: MakeEncoder,
        state: StateSize,
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
            state: sizes of the recurrent state.
            width: units of a hidden layer.
            depth: hidden layers.
            length: steps in a window.
            bins: rewards are a distribution over so many bins (two-hot); 0: a number.
            optim: settings of Adam.
            trainer: fits the model to replay.
        """
        units, stoch_dim, hidden = state.units, state.groups * state.classes, [width] * depth
        super().__init__(spec, units + stoch_dim, length, optim, trainer)
        self.units = units
        self.groups = state.groups
        self.classes = state.classes
        self.noise_shape = (state.groups,)

        # The posterior reads deter and the observation: its first layer is the sum of one linear map of each, so that
        # the observations of a whole window go through theirs at once.
        self.encoder = encoder(spec)
        self.scale = make_standardiser(spec, self.encoder)
        deep = mlp([self.encoder.dim, *hidden, width], True, activation=nn.SiLU)
        self.embed = deep if spec.obs_dtype == torch.float32 else nn.Linear(self.encoder.dim, width)

        # State transition, prior and posterior.
        self.gru = BlockGRU(stoch_dim + spec.action_dim, units, width, state.blocks)
        self.prior = mlp([units, *hidden, stoch_dim], True, activation=nn.SiLU)
        self.posterior_deter = nn.Linear(units, width)
        self.posterior = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, stoch_dim))

        # Predictions from the state; rewards and terminations start out as zero logits.
        self.head = make_head(bins)
        rewards = [self.dim, *hidden, self.head.outputs]
        self.reward = zero_output(mlp(rewards, True, activation=nn.SiLU, fp32_output=True))
        self.termination = zero_output(mlp([self.dim, *hidden, 1], True, activation=nn.SiLU))
        self.decoder = make_decoder(spec, self.encoder, self.dim, hidden, norm=True)

        self.opt = Adam(self.parameters(), optim.lr)

    def observe(self, state: Tree | None, step: Step) -> Tree:
        state = self.initial_state(len(step.first), step.first.device) if state is None else state
        return self.observe_with(state, step, None)

    def observe_with(self, state: Tree, step: Step, noise: Tensor | None) -> Tree:
        embedded = self._embed(step.obs)
        # `len` would fix the batch of an exported model.
        with fp32_if_few(embedded.shape[0], embedded.device.type):
            return self._infer(state, step.action, step.first, embedded, noise)[0]

    def advance(self, state: Tree, action: Tensor) -> Tree:
        # Without an observation stoch is drawn from the prior, which has learned to match the posterior.
        deter = self._next_deter(state["deter"], state["stoch"], self.spec.encode_action(action))
        return {"deter": deter, "stoch": self.sample(self._prior(deter))}

    def outcome(self, features: Tensor) -> Outcome:
        cont = torch.sigmoid(-self.termination(features).float().squeeze(-1))
        return Outcome(self.head.mean(self.reward(features)), cont)

    def features(self, state: Tree) -> Tensor:
        return torch.cat([state["deter"], state["stoch"].flatten(-2)], -1)

    def decode(self, state: Tree) -> Tensor:
        return self.decoder.reconstruct(self.decoder(self.features(state)), self.scale)

    def initial_state(self, batch: int, device: torch.device) -> dict[str, Tensor]:
        deter = torch.zeros(batch, self.units, device=device)
        return {"deter": deter, "stoch": deter.new_zeros(batch, self.groups, self.classes)}

    def pack(self, state: Tree) -> dict[str, Tensor]:
        """Class indices instead of one-hot vectors, which take `classes` times more numbers."""
        return {"deter": state["deter"], "classes": state["stoch"].argmax(-1).to(torch.int16)}

    def unpack(self, packed: dict[str, Tensor]) -> dict[str, Tensor]:
        stoch = F.one_hot(packed["classes"].long(), self.classes).float()
        return {"deter": packed["deter"], "stoch": stoch}

    def loss(self, steps: Step, start: Tree | None) -> tuple[Tensor, Tree, Metrics]:
        """`start`, where given, is the state at the first step, which then adds nothing to the loss."""
        # The windows' first steps are a random sample of replay; their later ones are much like them.
        self.count(steps.obs[0])
        states, logp = self._filter(steps, start)
        features = self.features(states)

        # The first step of an episode has no reward, and cannot be terminal.
        learned = torch.ones_like(steps.reward)
        learned[0] = start is None
        arrived = learned * ~steps.first

        kl = self.kl_both_ways(logp, self._prior(states["deter"].flatten(0, 1)).unflatten(0, steps.first.shape))
        loss = {
            "obs/loss": learned * self.decoder.loss(self.decoder(features), steps.obs, self.scale),
            "reward/loss": arrived * self.head.loss(self.reward(features), steps.reward),
            "termination/loss": arrived * self._termination_loss(features, steps.terminal.float()),
            "kl_prior": learned * kl[0].clamp(min=FREE_NATS),
            "kl_posterior": learned * KL_POSTERIOR * kl[1].clamp(min=FREE_NATS),
        }
        metrics: Metrics = {f"model/train/{name}": x.mean() for name, x in loss.items()}
        total = torch.stack([x.mean() for x in loss.values()]).sum()

        # Usage: the perplexity of the mean latent over the number of classes, 1 where all are used equally.
        used = states["stoch"].detach().flatten(0, 1).mean(0)
        metrics |= {
            "model/train/kl": kl[0].mean(),
            "model/train/posterior_entropy": -(logp.exp() * logp).sum(-1).sum(-1).mean(),
            "model/train/latent/usage": torch.special.entr(used).sum(-1).exp().mean() / self.classes,
        }
        return total, states, metrics | {"model/train/loss": total}

    def kl_both_ways(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """[..., groups, classes] log-probabilities -> [...] each: KL(posterior || prior) in nats, twice.

        The values are equal; the gradient of the first reaches the prior only, that of the second the posterior only.
        """
        return kl_categorical(posterior.detach(), prior), kl_categorical(posterior, prior.detach())

    def sample(self, logp: Tensor, noise: Tensor | None = None) -> Tensor:
        """[N, groups, classes] log-probabilities -> one-hot, with the gradient of the probabilities.

        `noise` [N, groups] is uniform in [0, 1); None: it is drawn.
        """
        probability = logp.exp()

        # Inverse transform sampling takes one random number a group. torch.multinomial takes one for each class, and
        # ten times longer. The last value of the cumulative sum is 1 but for rounding: scaling by it keeps the index
        # in range.
        cumulative = probability.detach().cumsum(-1)
        noise = torch.rand_like(cumulative[..., :1]) if noise is None else noise.unsqueeze(-1)
        limit = noise * cumulative[..., -1:]
        if torch.compiler.is_exporting():
            # ONNX has no binary search. To count gives the same index, but takes longer.
            index = (cumulative < limit).sum(-1, keepdim=True)
        else:
            index = torch.searchsorted(cumulative, limit)

        # Straight-through: the value is the one-hot vector, the gradient that of the probabilities.
        hot = torch.zeros_like(probability).scatter_(-1, index, 1.0)
        return hot + (probability - probability.detach()) if probability.requires_grad else hot

    def _filter(self, steps: Step, start: Tree | None) -> tuple[dict[str, Tensor], Tensor]:
        """States [L, B, ...] and the posterior's log-probabilities [L, B, groups, classes] of windows [L, B]."""
        embedded = self._embed(steps.obs)
        blank = self.initial_state(steps.first.shape[1], steps.first.device)
        with fp32_if_few(len(embedded[0]), embedded.device.type):
            # A window's first step counts as an episode's first unless its state is known.
            state, logp = self._infer(blank, steps.action[0], torch.ones_like(steps.first[0]), embedded[0])
            state = state if start is None else start
            states, logps = [state], [logp]
            for action, first, now in zip(steps.action[1:], steps.first[1:], embedded[1:], strict=True):
                state, logp = self._infer(state, action, first, now)
                states.append(state)
                logps.append(logp)
        stacked = {key: torch.stack([state[key] for state in states]) for key in blank}
        return stacked, torch.stack(logps)

    def _infer(
        self, state: Tree, action: Tensor, first: Tensor, embedded: Tensor, noise: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The posterior state [B] after one real step, and its log-probabilities; `first` resets state and action."""
        # An episode begins with zeros and no action: what came before belongs to another episode.
        keep = (~first).float().unsqueeze(-1)
        deter, stoch = state["deter"] * keep, state["stoch"] * keep.unsqueeze(-1)
        deter = self._next_deter(deter, stoch, self.spec.encode_action(action) * keep)
        logp = self._posterior(deter, embedded)
        return {"deter": deter, "stoch": self.sample(logp, noise)}, logp

    def _next_deter(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        return self.gru(deter, torch.cat([stoch.flatten(1), action], -1))

    def _prior(self, deter: Tensor) -> Tensor:
        """[N, units] -> [N, groups, classes] log-probabilities."""
        return self._log_probs(self.prior(deter))

    def _posterior(self, deter: Tensor, embedded: Tensor) -> Tensor:
        """[N, units] and [N, width] -> [N, groups, classes] log-probabilities."""
        return self._log_probs(self.posterior(self.posterior_deter(deter) + embedded))

    def _log_probs(self, logits: Tensor) -> Tensor:
        return unimix(logits.float().unflatten(-1, (self.groups, self.classes)), UNIMIX)

    def _embed(self, obs: Tensor) -> Tensor:
        return self.embed(self.encoder(self.scaled(obs)))

    def _termination_loss(self, features: Tensor, terminal: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            self.termination(features).float().squeeze(-1), terminal, reduction="none"
        )


def kl_categorical(a: Tensor, b: Tensor) -> Tensor:
    """[..., groups, classes] log-probabilities -> [...]: KL(a || b), summed over groups."""
    return (a.exp() * (a - b)).sum((-2, -1))
