"""An ensemble of networks that predict the next observation, the reward and terminations (PETS, MBPO).

Chua et al. 2018 ("PETS"): probabilistic networks, whose disagreement is the epistemic uncertainty.
Janner et al. 2019 ("MBPO"): elites by hold-out error, early stopping.

    inputs    x = (s, a), standardised
    targets   y = (s' - s, r), standardised                          `regression.predicts: next`: (s', r)
    loss      mean of (mu(x) - y)^2                                   least squares
              mean of (mu(x) - y)^2 / var(x) + log var(x)             `gaussian`; PETS, eq. 1
    imagine   y ~ N(mu_k(x), var_k(x)) of an elite k, in the units of the environment
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.frozen_ensemble import FrozenEnsemble, elite_layers, fold
from mbrl_lab.dynamics.optim import DecayOptim
from mbrl_lab.dynamics.termination import TerminationModel
from mbrl_lab.dynamics.trainer import Trainer
from mbrl_lab.dynamics.validation import Validation, validate_predictions
from mbrl_lab.nets import EnsembleMLP
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.normalise import Normaliser
from mbrl_lab.nets.precision import SMALL_MEMBER_BATCH, autocast_dtype, fp32_if_few
from mbrl_lab.ops import masked_mean
from mbrl_lab.protocols import WorldModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, FitResult, Metrics, Outcome, Step, Transition, Tree

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(obs [N, D], action [N] or [N, A], next_obs [N, D]) -> reward [N] float, or termination [N] bool."""


MAX_LOGVAR, MIN_LOGVAR = 0.5, -10.0
"""Initial bounds of the log-variances of standardised targets; they are learned (PETS, appendix A.1)."""

BOUNDS_WEIGHT = 0.01
"""Weight of the distance between these bounds in the loss, which pulls them together (PETS's code)."""


@dataclass(frozen=True)
class Regression:
    """What the networks regress on, by which likelihood, and how they are kept from fitting too closely."""

    predicts: str
    """delta: the change of the observation (PETS, MBPO). next: the next observation itself."""
    target_scale: str
    """each: every target is standardised by itself. common: all are centred, and divided by one scale."""
    gaussian: bool
    """Variances are predicted too, and imagination draws from the Gaussians. False: least squares."""
    noise: float
    """Standard deviation of Gaussian noise on the observations of a fit, before and after the action, as a fraction of
    the absolute mean of each dimension."""
    norm: bool
    """Layer norm before each activation."""
    dropout: float
    """Probability, before the layer norm, in a fit. Predictions are without (Kubo et al. 2025: 0.01 with norm)."""


@dataclass(frozen=True)
class Imagination:
    """Which members predict in a rollout."""

    elites: int
    """So many of the members imagine: those of least hold-out error."""
    propagation: str
    """ts_inf: a particle keeps its member for the whole rollout. ts1: it draws one at every step. expectation: the
    means of all are averaged, without noise (PETS, section 5)."""

    def __post_init__(self) -> None:
        assert self.propagation in ("ts_inf", "ts1", "expectation"), self.propagation


@dataclass(frozen=True)
class Known:
    """Formulas that take the place of what would be learned, e.g. those of `env.physics`."""

    reward_fn: Formula | None
    termination_fn: Formula | None


class Ensemble(WorldModel):
    """See the top of this file. Its state is the observation.

    Each elite predicts an equal block of the states of a batch. Terminations have networks of their own.
    """

    compilable = ("_imagine",)
    differentiable = True
    measures_disagreement = True
    elite: Tensor

    def __init__(
        self,
        spec: EnvSpec,
        members: int,
        width: int,
        depth: int,
        regression: Regression,
        imagination: Imagination,
        optim: DecayOptim,
        termination: Callable[[int, int], TerminationModel],
        known: Known,
        trainer: Trainer[Ensemble],
    ) -> None:
        """
        Args:
            spec: of the observations, which must be vectors.
            members: K.
            width: units of a hidden layer.
            depth: hidden layers.
            regression: what the networks learn.
            imagination: which of them predict.
            optim: settings of Adam.
            termination: makes the model of terminations for K members and so many dimensions of observations.
            known: formulas instead of it, and of the reward.
            trainer: fits the model to replay.
        """
        super().__init__(spec)
        if len(spec.obs_shape) != 1:
            choices = "try dynamics=frames, grid, latent or rssm_xs"
            raise ValueError(f"dynamics=ensemble predicts vectors, not {spec.obs_shape}: {choices}")
        self.members = members
        self.gaussian = regression.gaussian
        self.noise = regression.noise
        self.predicts_change = regression.predicts == "delta"
        self.common_scale = regression.target_scale == "common"
        self.propagation = imagination.propagation
        self.clip = optim.clip
        self.reward_fn = known.reward_fn
        self.termination_fn = known.termination_fn
        self.trainer = trainer

        dim = spec.obs_shape[0]
        self.outputs = dim + 1
        self.inputs = Normaliser(dim + spec.action_dim)
        self.targets = Normaliser(self.outputs)
        outputs = self.outputs * (1 + self.gaussian)
        self.net = EnsembleMLP(
            members, dim + spec.action_dim, outputs, width, depth, norm=regression.norm, dropout=regression.dropout
        ).eval()
        self.max_logvar = nn.Parameter(torch.full((self.outputs,), MAX_LOGVAR))
        self.min_logvar = nn.Parameter(torch.full((self.outputs,), MIN_LOGVAR))
        self.termination = termination(members, dim)
        self.register_buffer("elite", torch.arange(imagination.elites))
        self.opt = Adam(self._groups(optim), optim.lr)

        # The elites with everything folded in, by dtype: made on first use, dropped when a weight changes.
        self._frozen: dict[torch.dtype, FrozenEnsemble] = {}
        self.register_load_state_dict_post_hook(lambda *_: self.thaw())

    def observe(self, state: Tree | None, step: Step) -> Tensor:
        return step.obs

    def features(self, state: Tree) -> Tensor:
        return state

    @property
    def batch_blocks(self) -> int:
        return len(self.elite) if self.propagation == "ts_inf" else 1

    def held_out(self, replay: Replay) -> Step | None:
        return self.trainer.held_out(replay)

    def fit(self, replay: Replay, updates: int | None = None) -> FitResult:
        return self.trainer.fit(self, replay, updates)

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tensor, Outcome]:
        """One step. Gradients reach the state and the action, not the model's weights, which are constants here."""
        # TS1: each particle draws a member at every step. Members predict blocks of them, so they are shuffled instead.
        order = torch.randperm(len(state), device=state.device) if self.propagation == "ts1" else None
        if order is not None:
            state, action = state[order], action[order]

        rows = len(state) if self.propagation == "expectation" else len(state) // len(self.elite)
        with fp32_if_few(rows, state.device.type, SMALL_MEMBER_BATCH):
            next_obs, outcome = self._imagine(self.elites(), state, action)
        if order is None:
            return next_obs, outcome

        # The inverse permutation puts every particle back in its place.
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return next_obs[back], Outcome(*(x[back] for x in outcome))

    @torch.no_grad()
    def disagreement(self, state: Tree, action: Tensor) -> Tensor:
        """[B]: the standard deviation of the elites' means, in units of the targets' scales; rms over outputs.

        Compare Pathak et al. 2019. It is 0 with one elite. It leaves out the predicted variances, which are aleatoric
        uncertainty, and the reward where a formula computes it.
        """
        x = torch.cat([state, self.spec.encode_action(action)], -1)
        with fp32_if_few(len(state), state.device.type, SMALL_MEMBER_BATCH):
            means = self.elites().net.predict(x.expand(len(self.elite), *x.shape))[..., : self.outputs]
        spread = (means / self.targets.scale).std(0, correction=0)
        return spread[:, : self.outputs - (self.reward_fn is not None)].square().mean(-1).sqrt()

    def _imagine(self, elites: FrozenEnsemble, obs: Tensor, action: Tensor) -> tuple[Tensor, Outcome]:
        x = torch.cat([obs, self.spec.encode_action(action)], -1)
        predicted, reward = self._sample(self._by_block(x, elites.net.predict))
        next_obs = self._next_obs(obs, predicted)

        # A reward that is known is computed from the sampled next observation, as PETS does.
        if self.reward_fn is not None:
            reward = self.reward_fn(obs, action, next_obs)
        return next_obs, Outcome(reward, self._cont(elites, obs, action, next_obs))

    def _cont(self, elites: FrozenEnsemble, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """[N]: the probability that the episode continues."""
        if self.termination_fn is not None:
            return 1 - self.termination_fn(obs, action, next_obs).float()
        if elites.termination is None:  # none was ever observed
            return torch.ones_like(next_obs[:, 0])

        # Classifiers cost as much as the dynamics, so they are left out where bounds explain every termination.
        cont = self.termination.within_bounds(obs, next_obs)
        if not elites.termination.layers:
            return cont
        return cont * self._by_block(next_obs, partial(self.termination.classify, elites.termination))

    def _sample(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Network outputs [N, O or 2 O] -> change of observation, or the next one, [N, D] and reward [N]."""
        if self.gaussian:
            # The means are in the environment's units already, the log-variances in those of standardised targets.
            out, logvar = out.chunk(2, -1)
            if self.propagation != "expectation":
                std = (0.5 * self._bounded(logvar)).exp() * self.targets.scale
                out = out + std * torch.randn_like(std)
        return out[:, :-1], out[:, -1]

    def _by_block(self, x: Tensor, net: Callable[[Tensor], Tensor]) -> Tensor:
        """[N, i] -> [N, ...]: an equal block of rows for each elite, or the mean of all elites for every row."""
        elites, rows = len(self.elite), len(x)
        if self.propagation == "expectation":
            return net(x.expand(elites, *x.shape)).mean(0)

        # Blocks of a batched product have equal sizes: the last one is filled up with zeros, which are dropped again.
        x = F.pad(x, (0, 0, 0, -rows % elites))
        return net(x.view(elites, -1, x.shape[-1])).flatten(0, 1)[:rows]

    def update(self, steps: Step, terminations: Step | None = None) -> tuple[Tensor, Metrics]:
        """One gradient step of all members.

        Args:
            steps: [L, B] for all members, or [L, K, B] for each its own.
            terminations: for the model of terminations, which learns from other batches; None: the same steps.

        Returns the observations [N, D] of `steps`, and metrics.
        """
        t = steps.transitions()
        self.net.train()  # with dropout, which predictions and validation are without
        loss = self.loss(self._by_member(self._noised(t)))
        self.net.eval()
        if self.clip:
            self.opt.minimise_clipped(loss.sum(), self.clip)
        else:
            self.opt.minimise(loss.sum())
        metrics: Metrics = {"model/train/loss": loss.detach().mean()}
        if self.termination_fn is None and self.termination.unexplained:
            batch = self._by_member(t if terminations is None else terminations.transitions())
            metrics["model/train/termination/loss"] = self.termination.update(batch)
        self.thaw()
        return t.obs.flatten(0, t.reward.ndim - 1), metrics

    def loss(self, t: Transition) -> Tensor:
        """[K, N] transitions -> [K]: squared error of standardised targets, or their Gaussian -log likelihood."""
        out, target = self._outputs(t), self._targets(t)
        if not self.gaussian:
            return masked_mean((out - target).square().mean(-1), t.valid, 1)

        mean, logvar = out.chunk(2, -1)
        logvar = self._bounded(logvar)
        likelihood = ((mean - target).square() * (-logvar).exp() + logvar).mean(-1)

        # The caller sums over members, which share the bounds: each adds its part of their loss.
        bounds = BOUNDS_WEIGHT * (self.max_logvar.sum() - self.min_logvar.sum())
        return masked_mean(likelihood, t.valid, 1) + bounds / self.members

    @torch.no_grad()
    def validate(self, steps: Step) -> Tensor:
        """[K] mean squared error of standardised targets on steps [L, B]; of Gaussian members too, as in MBPO's code.

        A likelihood would be dominated by the few steps on which a member is sure and wrong.
        """
        t = self._by_member(steps.transitions())
        error = self._outputs(t)[..., : self.outputs] - self._targets(t)
        return masked_mean(error.square().mean(-1), t.valid, 1)

    @torch.no_grad()
    def validation(self, steps: Step) -> Validation:
        """One-step predictions of the elites for steps [L, B], all of them valid."""
        t = steps.transitions()
        obs, action, terminal = (x.flatten(0, 1) for x in (t.obs, t.action, t.terminal))
        out, target = self._outputs(self._by_member(t))[self.elite].float(), self._targets(t).flatten(0, 1)
        mean = out[..., : self.outputs]
        std = (0.5 * self._bounded(out[..., self.outputs :])).exp() if self.gaussian else None

        # Terminations, and a known reward, follow from the next observation: here that of the mean prediction.
        predicted = mean.mean(0)[:, :-1] * self.targets.scale[:-1] + self.targets.mean[:-1]
        next_obs = self._next_obs(obs, predicted)
        termination = 1 - self._cont(self.elites(), obs, action, next_obs)
        reward = None
        if self.reward_fn is not None:
            reward = (self.reward_fn(obs, action, next_obs) - self.targets.mean[-1]) / self.targets.scale[-1]
        return validate_predictions(mean, std, target, termination, terminal, reward)

    def normalise(self, steps: Step) -> None:
        """Take the scales of inputs and targets from real steps [2, N], all of them valid."""
        t = steps.transitions()
        self.inputs.fit(torch.cat([t.obs[0], self.spec.encode_action(t.action[0])], -1))

        # Targets with noise vary more; the noise is a fraction of the means of the inputs, which are known now.
        t = self._noised(t)
        self.targets.fit(self._raw_targets(t.at(0)))
        if self.common_scale:
            # The root mean square, so that the outputs keep their proportions, as the unscaled ones of MBPO's authors.
            self.targets.scale.fill_(self.targets.scale.square().mean().sqrt())
        self.thaw()

    def fit_termination_bounds(self, steps: Step) -> None:
        """Take the ranges and bounds of terminations from real steps [2, N], all of them valid."""
        t = steps.transitions()
        self.termination.observe(t.next_obs[0], t.terminal[0])
        self.thaw()

    def logvar_bounds(self) -> list[nn.Parameter]:
        """The parameters that all members share: the bounds of their log-variances."""
        return [self.max_logvar, self.min_logvar]

    def choose_elites(self, error: Tensor) -> None:
        """Keep the members of least `error` [K] as elites."""
        self.elite.copy_(error.argsort()[: len(self.elite)])
        self.thaw()

    def elites(self) -> FrozenEnsemble:
        """The elites ready to imagine with, kept until weights change."""
        dtype = autocast_dtype(self.elite.device.type)
        if dtype not in self._frozen:
            self._frozen[dtype] = self._fold()
        return self._frozen[dtype]

    @torch.no_grad()
    def _fold(self) -> FrozenEnsemble:
        # The log-variances of Gaussian members, the last outputs, stay as they are.
        width = self.net.biases[-1].shape[-1] - self.outputs
        scale, shift = F.pad(self.targets.scale, (0, width), value=1), F.pad(self.targets.mean, (0, width))
        net = fold(elite_layers(self.net.layers(), self.elite), self.inputs, scale, shift)
        learned = self.termination_fn is None and bool(self.termination.observed)
        return FrozenEnsemble(net, self.termination.freeze(self.elite) if learned else None)

    def thaw(self) -> None:
        """Drop the folded elites: a weight or a scale has changed."""
        self._frozen = {}

    def _noised(self, t: Transition) -> Transition:
        """The observations before and after with Gaussian noise, drawn again for every batch."""
        if not self.noise:
            return t
        scale = self.noise * self.inputs.mean[: t.obs.shape[-1]].abs()
        obs, next_obs = (x + scale * torch.randn_like(x) for x in (t.obs, t.next_obs))
        return t._replace(obs=obs, next_obs=next_obs)

    def _groups(self, optim: DecayOptim) -> list[dict[str, Any]]:
        """The layers' weights with their decay; then the parameters that do not decay."""
        weights = list(self.net.weights)
        decays = optim.by_layer(len(weights))
        rest = [*self.net.biases, self.max_logvar, self.min_logvar]
        return [*({"params": [w], "weight_decay": d} for w, d in zip(weights, decays, strict=True)), {"params": rest}]

    def _by_member(self, t: Transition) -> Transition:
        """[L, B] or [L, K, B] -> [K, N]."""
        if t.reward.ndim == 2:
            return Transition(*(x.flatten(0, 1).expand(self.members, *[-1] * (x.ndim - 1)) for x in t))
        return Transition(*(x.transpose(0, 1).flatten(1, 2) for x in t))

    def _outputs(self, t: Transition) -> Tensor:
        return self.net(self.inputs(torch.cat([t.obs, self.spec.encode_action(t.action)], -1)))

    def _targets(self, t: Transition) -> Tensor:
        return self.targets(self._raw_targets(t))

    def _next_obs(self, obs: Tensor, predicted: Tensor) -> Tensor:
        """[N, D]: the next observation, of which the change or itself was predicted."""
        return obs + predicted if self.predicts_change else predicted

    def _raw_targets(self, t: Transition) -> Tensor:
        """[..., O]: the change of observation, or the next one, and the reward, in the environment's units."""
        target = t.next_obs - t.obs if self.predicts_change else t.next_obs
        return torch.cat([target, t.reward.unsqueeze(-1)], -1)

    def _bounded(self, logvar: Tensor) -> Tensor:
        """Log-variances bent smoothly into (min, max), so that gradients never vanish (PETS, appendix A.1)."""
        logvar = self.max_logvar - F.softplus(self.max_logvar - logvar)
        return self.min_logvar + F.softplus(logvar - self.min_logvar)
