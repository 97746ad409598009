"""Value: a policy's critics that bootstrap plans beyond their horizon, trained on the same replay."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mbrl_lab.algo.learner import MOMENTS_EVERY, Updates, fit_due, fit_normaliser, window_of
from mbrl_lab.ops import Means, clipped
from mbrl_lab.protocols import Policy, WorldModel, option_of
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics


class Value(nn.Module):
    """Trains as `OffPolicy` does, without priorities.

    Raises ValueError for a policy that does not estimate values.
    """

    def __init__(
        self,
        spec: EnvSpec,
        policy: Callable[[EnvSpec], Policy],
        update: Updates,
        reward_clip: float,
    ) -> None:
        super().__init__()
        self.policy = policy(spec)
        if not self.policy.estimates_value:
            name = option_of(type(self.policy))
            raise ValueError(f"value.policy is {name}, which estimates no values: try value=ddqn, or value=sac")
        self.window = window_of(self.policy)
        self.update = update
        self.reward_clip = reward_clip

    def learn(self, model: WorldModel, replay: Replay, before: int, after: int, warmup: int) -> Metrics:
        """The updates due between the step counts `before` and `after`, past the warm-up, on the model's features."""
        measured = Means()
        if fit_due(warmup, before, after, MOMENTS_EVERY):
            fit_normaliser(self.policy, replay, model)
        for _ in range(self.update.due(before, after, warmup)):
            # Features are inferred at each update, as the model that makes them may have been fitted since.
            steps = model.sample_features(replay, self.update.batch, self.window, self.policy.n_step)
            measured.add(self.policy.update(clipped(steps, self.reward_clip)))
        return measured.means()

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """[B]: the expected return from states with these features [B, ...]."""
        return self.policy.value(features)
