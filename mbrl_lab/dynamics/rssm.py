"""RSSM: a recurrent state-space model with discrete latents (Hafner et al. 2019, 2021, 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class RSSM(SequenceModel):
    """Its state is a memory of `units` numbers and `groups` latents of `classes` classes each, one-hot.

    The memory follows from the state before and the action (`BlockGRU`); the prior tells the latents from the memory,
    the posterior from memory and observation. Of all probabilities the share `unimix` is spread evenly. What is drawn
    passes gradients on as if it were the probabilities (straight-through).
    The losses: observation, reward and going on, told from the state; and the relative entropy of posterior and prior,
    `kl_prior` times for the prior to follow and `kl_posterior` times for the posterior, of which `free_nats` are free.
    Vectors and pixels are standardised by mean and deviation of the rows that began the windows it learned from.
    """

    compilable = ("advance", "_infer")
    recurrent, decodes = True, True

    def __init__(
        self,
        spec: EnvSpec,
        encoder: MakeEncoder,
        units: int,
        blocks: int,
        groups: int,
        classes: int,
        width: int,
        depth: int,
        length: int,
        unimix: float,
        kl_prior: float,
        kl_posterior: float,
        free_nats: float,
        bins: int,
        lr: float,
        clip: float,
        anneal_updates: int,
        trainer: Trainer[SequenceModel],
    ) -> None:
        super().__init__(spec, units + groups * classes, length, lr, clip, anneal_updates, trainer)
        self.unimix, self.units, self.groups, self.classes = unimix, units, groups, classes
        self.kl_prior, self.kl_posterior, self.free_nats = kl_prior, kl_posterior, free_nats
        latents, hidden = groups * classes, [width] * depth
        self.see = encoder(spec)
        self.scale = make_standardiser(spec, self.see)
        deep = mlp([self.see.dim, *hidden, width], True, activation=nn.SiLU)
        self.embed = deep if spec.obs_dtype == torch.float32 else nn.Linear(self.see.dim, width)
        self.gru = BlockGRU(latents + spec.action_dim, units, width, blocks)
        self.prior = mlp([units, *hidden, latents], True, activation=nn.SiLU)
        self.expect = nn.Linear(units, width)
        self.posterior = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, latents))
        self.head = make_head(bins)
        rewards = [self.dim, *hidden, self.head.outputs]
        self.reward = zero_output(mlp(rewards, True, activation=nn.SiLU, fp32_output=True))
        self.end = zero_output(mlp([self.dim, *hidden, 1], True, activation=nn.SiLU))
        self.decoder = make_decoder(spec, self.see, self.dim, hidden, norm=True)
        self.opt = Adam(self.parameters(), lr)

    def observe(self, state: Tree | None, step: Step) -> Tree:
        state = self.initial_state(len(step.first), step.first.device) if state is None else state
        seen = self._embed(step.obs)
        with fp32_if_few(len(seen), seen.device.type):
            return self._infer(state, step.action, step.first, seen)[0]

    def advance(self, state: Tree, action: Tensor) -> Tree:
        memory = self._remember(state["memory"], state["latent"], self.spec.encode(action))
        return {"memory": memory, "latent": self.draw(self._prior(memory))}

    def outcome(self, features: Tensor) -> Outcome:
        going_on = torch.sigmoid(-self.end(features).float().squeeze(-1))
        return Outcome(self.head.mean(self.reward(features)), going_on)

    def features(self, state: Tree) -> Tensor:
        return torch.cat([state["memory"], state["latent"].flatten(-2)], -1)

    def decode(self, state: Tree) -> Tensor:
        return self.decoder.reconstruct(self.decoder(self.features(state)), self.scale)

    def initial_state(self, batch: int, device: torch.device) -> dict[str, Tensor]:
        memory = torch.zeros(batch, self.units, device=device)
        return {"memory": memory, "latent": memory.new_zeros(batch, self.groups, self.classes)}

    def pack(self, state: Tree) -> dict[str, Tensor]:
        """The numbers of the latents' classes in the place of one-hot vectors."""
        return {"memory": state["memory"], "classes": state["latent"].argmax(-1).to(torch.int16)}

    def unpack(self, packed: dict[str, Tensor]) -> dict[str, Tensor]:
        latent = F.one_hot(packed["classes"].long(), self.classes).float()
        return {"memory": packed["memory"], "latent": latent}

    def loss(self, steps: Step, start: Tree | None) -> tuple[Tensor, Tree, Metrics]:
        """Where `start` is known it is the state in the first row, which then is not learned from."""
        self.count(steps.obs[0])
        states, logp = self._filter(steps, start)
        features = self.features(states)
        learned = torch.ones_like(steps.reward)
        learned[0] = start is None
        arrived = learned * ~steps.first
        apart = self.divergences(logp, self._prior(states["memory"].flatten(0, 1)).unflatten(0, steps.first.shape))
        loss = {
            "obs/loss": learned * self.decoder.loss(self.decoder(features), steps.obs, self.scale),
            "reward/loss": arrived * self.head.loss(self.reward(features), steps.reward),
            "termination/loss": arrived * self._end_error(features, steps.terminal.float()),
            "kl_prior": learned * self.kl_prior * apart[0].clamp(min=self.free_nats),
            "kl_posterior": learned * self.kl_posterior * apart[1].clamp(min=self.free_nats),
        }
        metrics: Metrics = {f"model/train/{name}": x.mean() for name, x in loss.items()}
        total = torch.stack([x.mean() for x in loss.values()]).sum()
        used = states["latent"].detach().flatten(0, 1).mean(0)
        metrics |= {
            "model/train/kl": apart[0].mean(),
            "model/train/posterior_entropy": -(logp.exp() * logp).sum(-1).sum(-1).mean(),
            "model/train/latent/usage": torch.special.entr(used).sum(-1).exp().mean() / self.classes,
        }
        return total, states, metrics | {"model/train/loss": total}

    def divergences(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """[..., groups, classes] log-probabilities -> [...]: their relative entropy in nats, twice.

        The first moves the prior alone, the second the posterior.
        """
        return kl_categorical(posterior.detach(), prior), kl_categorical(posterior, prior.detach())

    def draw(self, logp: Tensor) -> Tensor:
        """[N, groups, classes] log-probabilities -> one-hot, with the gradient of the probabilities.

        One random number decides among all classes; torch.multinomial draws one for each, which takes ten times longer.
        """
        probability = logp.exp()
        upto = probability.detach().cumsum(-1)
        index = torch.searchsorted(upto, torch.rand_like(upto[..., :1]) * upto[..., -1:])
        hot = torch.zeros_like(probability).scatter_(-1, index, 1.0)
        return hot + (probability - probability.detach()) if probability.requires_grad else hot

    def _filter(self, steps: Step, start: Tree | None) -> tuple[dict[str, Tensor], Tensor]:
        """States [L, B, ...] and posteriors' log-probabilities [L, B, groups, classes] of windows [L, B]."""
        embedded = self._embed(steps.obs)
        blank = self.initial_state(steps.first.shape[1], steps.first.device)
        with fp32_if_few(len(embedded[0]), embedded.device.type):
            state, logp = self._infer(blank, steps.action[0], torch.ones_like(steps.first[0]), embedded[0])
            state = state if start is None else start
            states, logps = [state], [logp]
            for action, first, seen in zip(steps.action[1:], steps.first[1:], embedded[1:], strict=True):
                state, logp = self._infer(state, action, first, seen)
                states.append(state)
                logps.append(logp)
        together = {key: torch.stack([state[key] for state in states]) for key in blank}
        return together, torch.stack(logps)

    def _infer(self, state: Tree, action: Tensor, first: Tensor, seen: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """One real step [B]; where it is `first` nothing of the state before is left."""
        keep = (~first).float().unsqueeze(-1)
        before, latent = state["memory"] * keep, state["latent"] * keep.unsqueeze(-1)
        memory = self._remember(before, latent, self.spec.encode(action) * keep)
        logp = self._posterior(memory, seen)
        return {"memory": memory, "latent": self.draw(logp)}, logp

    def _remember(self, memory: Tensor, latent: Tensor, action: Tensor) -> Tensor:
        return self.gru(memory, torch.cat([latent.flatten(1), action], -1))

    def _prior(self, memory: Tensor) -> Tensor:
        """[N, units] -> [N, groups, classes] log-probabilities."""
        return self._mixed(self.prior(memory))

    def _posterior(self, memory: Tensor, seen: Tensor) -> Tensor:
        return self._mixed(self.posterior(self.expect(memory) + seen))

    def _mixed(self, logits: Tensor) -> Tensor:
        return unimix(logits.float().unflatten(-1, (self.groups, self.classes)), self.unimix)

    def _embed(self, obs: Tensor) -> Tensor:
        return self.embed(self.see(self.scaled(obs)))

    def _end_error(self, features: Tensor, ends: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.end(features).float().squeeze(-1), ends, reduction="none")


def kl_categorical(a: Tensor, b: Tensor) -> Tensor:
    """[..., groups, classes] log-probabilities -> [...]: KL(a || b), summed over groups."""
    return (a.exp() * (a - b)).sum((-2, -1))
