"""Acting: what a policy does between an observation and an action, as one module of plain tensors.

    obs                                                 -> action, scores
    obs, previous_action, first, noise, deter, stoch  -> action, scores, next_deter, next_stoch

The second form is that of a policy that reads the belief of a recurrent model.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mbrl_lab.config import ConfigError
from mbrl_lab.protocols import Policy, WorldModel
from mbrl_lab.runner import Runner
from mbrl_lab.tracking.settings import words_of
from mbrl_lab.types import EnvSpec, Step


class Field(NamedTuple):
    """An input or an output: its name, its shape beside the batch, and its type."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def kind(self) -> str:
        """The type as NumPy names it."""
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.name} {self.kind} [{', '.join(map(str, ('batch', *self.shape)))}]"


@dataclass(frozen=True)
class Signature:
    """Everything that goes in and comes out, in order."""

    inputs: list[Field]
    outputs: list[Field]

    def zeros(self, batch: int) -> tuple[Tensor, ...]:
        """Inputs of zeros."""
        return tuple(torch.zeros(batch, *x.shape, dtype=x.dtype) for x in self.inputs)


class Acting(nn.Module):
    """Observations [B, ...] -> actions [B] and scores [B, A], which are those of `Policy.scores`."""

    given = 1
    """Inputs beside the belief."""

    def __init__(self, policy: Policy, model: WorldModel | None, spec: EnvSpec) -> None:
        super().__init__()
        self.policy = policy
        # A policy whose features are the observations themselves does not need the model.
        self.model = None if model is None or model.feature_spec == model.spec else model
        self.spec = spec
        self.signature = self._signature()

    def _signature(self) -> Signature:
        spec = self.spec
        outputs = [Field("action", action_shape(spec), action_dtype(spec))]
        outputs.append(Field("scores", (spec.action_dim,), torch.float32))
        return Signature([Field("obs", spec.obs_shape, spec.obs_dtype)], outputs)

    def forward(self, obs: Tensor) -> tuple[Tensor, ...]:
        if self.model is None:
            return self.choose(obs)
        # A model without recurrence reads only the observation of a step.
        return self.choose(self.model.features(self.model.observe(None, blank(self.spec, obs))))

    def choose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.policy.scores(features)
        return (scores.argmax(-1) if self.spec.discrete else scores), scores


class RecurrentActing(Acting):
    """The same with the belief of a recurrent model, which the caller owns.

    Where `first`, an episode begins, and previous action and belief are ignored. `noise` is uniform in [0, 1): a belief
    is drawn, in evaluations too.
    """

    given = 4
    model: WorldModel

    def _signature(self) -> Signature:
        inputs, outputs = (list(x) for x in vars(super()._signature()).values())
        inputs += [
            Field("previous_action", action_shape(self.spec), action_dtype(self.spec)),
            Field("first", (), torch.bool),
            Field("noise", self.model.noise_shape, torch.float32),
        ]
        state = self.model.observe(None, blank(self.spec, torch.zeros(1, *self.spec.obs_shape).to(self.spec.obs_dtype)))
        self.names = list(state)
        belief = [Field(name, tuple(x.shape[1:]), x.dtype) for name, x in state.items()]
        return Signature(inputs + belief, outputs + [x._replace(name=f"next_{x.name}") for x in belief])

    def forward(  # type: ignore[override]
        self, obs: Tensor, previous_action: Tensor, first: Tensor, noise: Tensor, *belief: Tensor
    ) -> tuple[Tensor, ...]:
        step = Step(previous_action, obs, torch.zeros(obs.shape[0]), torch.zeros_like(first), first)
        state = self.model.observe_with(dict(zip(self.names, belief, strict=True)), step, noise)
        return *self.choose(self.model.features(state)), *(state[name] for name in self.names)


def blank(spec: EnvSpec, obs: Tensor) -> Step:
    """First steps of episodes with these observations [B, ...]."""
    batch = obs.shape[0]  # `len` would fix the batch of an exported module
    begins = torch.ones(batch, dtype=torch.bool)
    return Step(spec.zero_action(batch), obs, torch.zeros(batch), ~begins, begins)


def action_shape(spec: EnvSpec) -> tuple[int, ...]:
    return () if spec.discrete else (spec.action_dim,)


def action_dtype(spec: EnvSpec) -> torch.dtype:
    return torch.int64 if spec.discrete else torch.float32


def acting(runner: Runner) -> Acting:
    """The module of a run's policy, on the CPU and in float32. ConfigError if the run has no policy."""
    algo, model = runner.algo, runner.algo.world_model
    policy = getattr(algo, "policy", None)
    if algo.planner is not None or not isinstance(policy, Policy):
        # The policy of a planner only proposes sequences.
        why = "it plans each action in its model" if algo.planner is not None else "none of its networks acts"
        raise ConfigError(
            f"{runner.folder.path} is a run of {words_of(runner.folder.config())}, without a policy to export: {why}; "
            f"runs of algo=ddqn, sac, ppo, mbpo and dreamer have one"
        )
    if type(policy).scores is Policy.scores:
        raise ConfigError(
            f"{type(policy).__name__} has no method `scores`, which an export consists of: see Policy in protocols.py"
        )
    kind = RecurrentActing if model is not None and model.recurrent else Acting
    # Copies, because the run's own may be on a GPU.
    return kind(copy.deepcopy(policy).cpu(), copy.deepcopy(model).cpu() if model else None, runner.envs.spec).eval()
