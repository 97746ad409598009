"""A person's play: the state of the learned model, and the real environment under the same actions."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any

import gymnasium
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mbrl_lab.config import ConfigError
from mbrl_lab.doctor.sight import meanings
from mbrl_lab.play.drawing import Drawing
from mbrl_lab.play.keys import Keys
from mbrl_lab.protocols import WorldModel
from mbrl_lab.report import fitted
from mbrl_lab.runner import TRAIN, Runner
from mbrl_lab.tracking.episodes import EpisodeLog
from mbrl_lab.tracking.settings import words_of
from mbrl_lab.types import Tree

PLAY = 4
"""A stream of episode seeds of its own; see `runner`."""

COPIES = 20
"""Rows of vectors in an imagined step, so that each member of an ensemble predicts some; one of them is drawn."""

SHOWN = 8
"""Dimensions of a vector whose traces are shown, at most."""

SAME = 1 / 16
"""Pixels that differ by less of the brightness count as equal."""

Answer = dict[str, Any]
"""Plain values for the page."""


def playable(runner: Runner, run: object) -> WorldModel:
    """The run's fitted model that predicts observations. ConfigError, one line, if there is none."""
    model = runner.algo.world_model
    if model is None:
        what = f"{run} is a run of {words_of(runner.folder.config())}, without a world model to play in"
        raise ConfigError(f"{what}: name a run of algo=mpc, mbpo or dreamer")
    if not fitted(runner):
        raise ConfigError(f"{run} has no fitted model to play in at step {runner.steps:,}")
    if not model.decodes and model.feature_spec != model.spec:
        raise ConfigError(f"{run}: {type(model).__name__} predicts no observations, so there is nothing to see")
    return model


class Session:
    """Both worlds from the same state on; each stops when its episode is over.

    Args:
        runner: a loaded run with a model; it is not changed.
        make: makes one environment, given a render_mode.
    """

    def __init__(self, runner: Runner, make: Callable[..., gymnasium.Env[Any, Any]]) -> None:
        self.runner = runner
        self.model = playable(runner, runner.folder.path)
        self.fresh = runner.make_envs(1, PLAY)
        self.training = self.fresh.lend(TRAIN)
        self.spec = self.fresh.spec
        self.keys = Keys(self.spec, meanings(self.fresh))
        self.images = len(self.spec.obs_shape) == 3
        self.brightest = float(self.fresh.vector.single_observation_space.high.max()) if self.images else 1.0
        self.drawing = Drawing(self.spec, self.brightest, make)
        self.rows = self.model.batch_blocks if self.images else COPIES

        # Environments of training have seeds by their number; the only one here is number 0.
        self.log = EpisodeLog(runner.folder)
        finished = enumerate(self.log.finished("train"))
        self.logged = [(k, row) for k, row in finished if row["env"] == 0 and row["length"] > 1]
        self.episode = -1

    def opening(self) -> Answer:
        """What the page has to know once."""
        return {
            "run": self.runner.folder.path.name,
            "model": type(self.model).__name__,
            "steps": self.runner.steps,
            "keys": self.keys.legend(),
            "images": self.images,
            "drawn": self.images or self.drawing.env is not None,
            "why_not": self.drawing.why_not,
            "training": bool(self.logged),
        }

    @torch.no_grad()
    def start(self, training: bool = False) -> Answer:
        """Begin in the first state of a new episode, or in a state of training, which is replayed up to there."""
        number, actions = self._drawn_from_training() if training and self.logged else (self._next(), None)
        envs = self.training if actions is not None else self.fresh
        with self.runner.autocast():
            step = envs.reset(number)
            belief = self.model.observe(None, step.to(self.runner.device))
            for action in actions if actions is not None else ():
                step = envs.step(action[None])
                belief = self.model.observe(belief, step.to(self.runner.device))
            envs.finished()

            self.envs, self.real = envs, step.obs[0]
            self.state = repeated(belief, self.rows)
            self.count, self.totals, self.over = 0, [0.0, 0.0], [False, False]
            self.termination, self.disagreement = 0.0, 0.0 if self.model.measures_disagreement else None
            return self._answer([0.0, 0.0])

    @torch.no_grad()
    def advance(self, held: Collection[str]) -> Answer:
        """One step of both worlds with the action of the keys that are held; a world that is over stays as it is."""
        action, rewards = self.keys.action(held), [0.0, 0.0]
        if not self.over[1]:
            step = self.envs.step(action)
            # An environment may take another action than the one sent, as FIRE to serve a ball.
            action, self.real, rewards[1] = step.action, step.obs[0], float(step.reward)
            self.over[1] = bool(self.envs.finished())

        if not self.over[0]:
            with self.runner.autocast():
                every = action.to(self.runner.device).repeat(self.rows, *[1] * (action.ndim - 1))
                measured = self.model.disagreement(self.state, every)
                state, outcome = self.model.imagine(self.state, every)
            # One row of one member is what happens; the next step begins there for all.
            row = random.randrange(self.rows)
            self.state = repeated(tree_map_only(Tensor, lambda x: x[row : row + 1], state), self.rows)
            rewards[0], self.termination = float(outcome.reward[row]), 1 - float(outcome.cont[row])
            self.disagreement = None if measured is None else float(measured.mean())
            self.over[0] = self.termination >= 0.5

        self.count += 1
        self.totals = [total + reward for total, reward in zip(self.totals, rewards, strict=True)]
        return self._answer(rewards)

    def close(self) -> None:
        """Close the simulators."""
        self.drawing.close()
        self.fresh.close()

    def imagined(self) -> Tensor:
        """[*obs_shape]: the observation of the model's state."""
        decoded = self.model.decode(self.state) if self.model.decodes else self.model.features(self.state)
        assert decoded is not None, type(self.model)
        return decoded[0].float().cpu()

    def _answer(self, rewards: list[float]) -> Answer:
        seen = self.imagined(), self.real.float()
        return {
            "step": self.count,
            "pictures": [self.drawing.picture(obs) for obs in seen],
            "values": [] if self.images else [obs[:SHOWN].tolist() for obs in seen],
            "rewards": rewards,
            "totals": self.totals,
            "over": self.over,
            "termination": self.termination,
            "disagreement": self.disagreement,
            "difference": self._difference(*seen),
        }

    def _difference(self, imagined: Tensor, real: Tensor) -> float:
        """The fraction of pixels that differ; of vectors the root mean square of the difference."""
        difference = imagined - real
        if self.images:
            newest = difference[-self.drawing.channels :].abs().amax(0)
            return float((newest > SAME * self.brightest).float().mean())
        return float(difference.square().mean().sqrt())

    def _next(self) -> int:
        self.episode += 1
        return self.episode

    def _drawn_from_training(self) -> tuple[int, Tensor]:
        """An episode of training, and its actions up to a step of it, both drawn uniformly."""
        k, row = random.choice(self.logged)
        _, actions = self.log.read("train", k)
        return row["index"], torch.as_tensor(actions[: random.randrange(1, row["length"])])


def repeated(state: Tree, rows: int) -> Tree:
    """A state [1, ...] as [rows, ...]."""
    return tree_map_only(Tensor, lambda x: x.repeat(rows, *[1] * (x.ndim - 1)), state)
