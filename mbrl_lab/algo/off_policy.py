"""OffPolicy: a policy acts, and learns from windows drawn from all of replay, uniformly or by priority."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mbrl_lab.algo.learner import MOMENTS_EVERY, Learner, Updates, fit_normaliser, window_of
from mbrl_lab.ops import Means, clipped
from mbrl_lab.protocols import Policy, option_of
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree

MIN_PRIORITY = 1e-6
"""Added to priorities, so that a window of TD error 0 may be drawn again."""


class OffPolicy(Learner):
    """Random actions during the warm-up, then the policy's, and gradient steps on windows drawn from all of replay.

    Evaluations always use the policy. Raises ValueError if the policy cannot learn from replay, or not by priority.
    """

    def __init__(
        self,
        spec: EnvSpec,
        policy: Callable[[EnvSpec], Policy],
        warmup: int,
        update: Updates,
        reward_clip: float,
        priority_exponent: float,
        importance_exponent: float,
        importance_steps: int,
    ) -> None:
        """
        Args:
            spec: the environment's spaces.
            policy: makes the policy.
            warmup: random steps before the first update.
            update: on how much of replay, how many and how often.
            reward_clip: for learning, rewards are clipped to [-reward_clip, reward_clip]; 0: not clipped.
            priority_exponent: windows are drawn by their latest priority to this power, alpha
                of Schaul et al. (2016) and omega of Rainbow (0.5); 0: uniformly.
            importance_exponent: initial beta of Schaul et al.; importance weights with beta 1 correct the bias fully.
            importance_steps: environment steps over which beta rises linearly to 1; 0: beta is constant.
        """
        super().__init__(spec, warmup)
        self.policy = policy(spec)
        self.window = window_of(self.policy)
        if priority_exponent and not self.policy.learns_by_priority:
            name = option_of(type(self.policy))
            raise ValueError(f"algo.priority_exponent is {priority_exponent}; it must be 0 with {name}")
        self.update = update
        self.reward_clip = reward_clip
        self.priority_exponent = priority_exponent
        self.importance_exponent = importance_exponent
        self.importance_steps = importance_steps

    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        if explore and not self.ready:
            return self.random_action(step), carry
        return self.policy.act(step.obs, explore), carry

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        measured = Means()
        # Evaluations during the warm-up use the untrained policy, but training still acts at random.
        if self.warmup_ends(before, after):
            self.ready.fill_(True)
        if self.fit_due(before, after, MOMENTS_EVERY):
            fit_normaliser(self.policy, replay)
        for _ in range(self.update.due(before, after, self.warmup)):
            if self.priority_exponent:
                measured.add(self.learn_by_priority(replay, self.beta(after)))
            else:
                steps = replay.sample(self.update.batch, self.window, self.policy.n_step)
                measured.add(self.policy.update(clipped(steps, self.reward_clip)))
        return measured.means()

    def learn_by_priority(self, replay: Replay, beta: float) -> Metrics:
        """A gradient step on windows drawn by priority, whose priorities it then updates."""
        indices, ratio = replay.sample_by_priority(self.update.batch, self.window)

        # w = (N P)^-beta / max w: the ratio is N P, each window's probability relative to uniform sampling.
        weight = ratio**-beta
        weight = (weight / weight.max()).float()

        steps = clipped(replay.read(indices, self.window, self.policy.n_step), self.reward_clip)
        metrics, priority = self.policy.update_weighted(steps, weight)
        replay.set_priorities(indices, (priority.double() + MIN_PRIORITY) ** self.priority_exponent)
        return metrics | {"replay/weight": weight.mean()}

    def beta(self, step: int) -> float:
        """The exponent of importance weights at an environment step."""
        fraction = min(step / self.importance_steps, 1.0) if self.importance_steps else 0.0
        return self.importance_exponent + fraction * (1 - self.importance_exponent)
