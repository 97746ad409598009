"""Environments of the kinds that people really have, and what should come of each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete

LENGTH = 5


class Odd(gymnasium.Env):
    """Episodes of five steps that pay 1 each; observes samples of its space; refuses actions out of its own."""

    observation_space: Any = Box(-1, 1, (2,), np.float32)
    action_space: Any = Discrete(2)
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.space = copy.deepcopy(self.observation_space)  # its random numbers are this environment's
        self.space.seed(seed)
        self.time = 0
        return self.observe(), self.info(None)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.time += 1
        return self.observe(), self.reward(), self.time >= LENGTH, False, self.info(action)

    def observe(self) -> Any:
        return self.space.sample()

    def reward(self) -> Any:
        return 1.0

    def info(self, action: Any) -> Any:
        return {}


@dataclass(frozen=True)
class Case:
    """An environment, the settings it is used with, and what comes of it: a run, or a line with `error`."""

    name: str
    made_of: dict[str, Any]
    wrap: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    shape: tuple[int, ...] | None = None  # of observations, where it is of interest
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.name}-v0"

    def register(self) -> str:
        """Make gymnasium know it; returns the id."""
        made_of = {key: staticmethod(x) if isinstance(x, type) else x for key, x in self.made_of.items()}
        gymnasium.register(self.id, entry_point=type(self.name, (Odd,), made_of), disable_env_checker=True)
        return self.id


def obs(space: Any, value: Any = None) -> dict[str, Any]:
    """Observes `value` of that space, or samples."""
    return {"observation_space": space} | ({} if value is None else {"observe": lambda self: value})


def acts(space: Any) -> dict[str, Any]:
    return {"action_space": space}


def pays(value: Any) -> dict[str, Any]:
    return {"reward": lambda self: value}


def tells(info: Callable[[Any, Any], Any]) -> dict[str, Any]:
    return {"info": info}


def steps(*returned: Any) -> dict[str, Any]:
    """Returns these of every step."""
    return {"step": lambda self, action: returned}


def fails(verb: str, error: Exception) -> dict[str, Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise error

    return {verb: method}


class LateNaN:
    """Observes NaN in a later reset."""

    def __init__(self) -> None:
        self.resets = 0

    def __call__(self, env: Any) -> Any:
        self.resets += env.time == 0
        return np.full(2, np.nan if self.resets > 3 and env.time == 0 else 0, np.float32)


def reused(self: Any) -> Any:
    """The same array, written into."""
    self.__dict__.setdefault("buffer", np.zeros(2, np.float32))[:] = self.time
    return self.buffer


SHARED = np.zeros(2, np.float32)


def shared(self: Any) -> Any:
    """The same array for all environments."""
    SHARED[:] = self.np_random.random()
    return SHARED


def needs_mode(self: Any, render_mode: str | None) -> None:
    self.render_mode = render_mode


def takes_config(self: Any, config: Any = None, render_mode: str | None = None) -> None:
    assert type(config) is dict and type(config["sizes"]) is list, type(config)


def own_length(self: Any) -> None:
    """Observes as many numbers as environments were made before it."""
    MADE.append(self)
    self.observation_space = Box(-1, 1, (len(MADE),), np.float32)


MADE: list[Any] = []

WHOLE = Box(0, 255, (40, 36, 3), np.uint8)
GOAL = spaces.Dict({"goal": Box(-1, 1, (2,), np.float64), "place": Box(-9, 9, (3,), np.float32)})
NESTED = spaces.Dict({"a": spaces.Tuple([Discrete(3), Box(0, 1, (2, 2))]), "b": spaces.MultiBinary(4)})
FLAT = "env.flatten=true"
FLATTEN = {"flatten": True}
LARGE = Box(-np.inf, np.inf, (2,), np.float64)
LINE = Box(-np.inf, np.inf, (1,), np.float32)
FINITE = "not finite"

CASES = [
    # infos
    Case("InfoAction", tells(lambda self, action: {"action": 10 + (action or 0)})),
    Case("InfoScaledAction", acts(Box(-50, 50, (1,), np.float32)) | tells(lambda self, action: {"action": action})),
    Case("InfoLives", tells(lambda self, action: {"life_lost": 2})),
    Case("InfoRagged", tells(lambda self, action: {"path": np.zeros(int(self.np_random.integers(1, 9)))})),
    Case("InfoNone", tells(lambda self, action: {"hit": 3 if self.np_random.random() < 0.5 else None})),
    Case("InfoKinds", tells(lambda self, action: {"x": 1} if self.time % 2 else {"x": "far", 3: object()})),
    Case("InfoIsNone", tells(lambda self, action: None)),
    # images
    Case("ChannelsFirst", obs(Box(0, 255, (3, 64, 48), np.uint8)), shape=(3, 64, 48)),
    Case("ChannelsLast", obs(WHOLE), shape=(3, 40, 36)),
    Case("GreyImage", obs(Box(0, 255, (48, 64), np.uint8)), shape=(1, 48, 64)),
    Case("GreyStack", obs(Box(0, 255, (4, 48, 64), np.uint8)), shape=(4, 48, 64)),
    Case("ColourStack", obs(Box(0, 255, (4, 40, 36, 3), np.uint8)), shape=(12, 40, 36)),
    Case("ColourStackFirst", obs(Box(0, 255, (2, 3, 40, 36), np.uint8)), shape=(6, 40, 36)),
    Case("Cube", obs(Box(0, 255, (40, 40, 40), np.uint8)), error="env.channels=first or env.channels=last"),
    Case("CubeLast", obs(Box(0, 255, (40, 38, 40), np.uint8)), {"channels": "last"}, shape=(40, 40, 38)),
    Case("CubeFirst", obs(Box(0, 255, (40, 38, 40), np.uint8)), {"channels": "first"}, shape=(40, 38, 40)),
    Case("WholeNumbers", obs(Box(0, 255, (40, 36, 3), np.int64)), shape=(3, 40, 36)),
    Case("FloatImage", obs(Box(0, 1, (40, 36, 3), np.float32)), error="env.to_bytes=true"),
    Case("FloatImageBytes", obs(Box(0, 1, (40, 36, 3), np.float32)), {"to_bytes": True}, shape=(3, 40, 36)),
    Case("FloatImageFlat", obs(Box(0, 1, (4, 5, 3), np.float32)), FLATTEN, shape=(60,)),
    Case("NaNImage", obs(Box(0, 1, (40, 36), np.float32), np.full((40, 36), np.nan)), {"to_bytes": True}, FINITE),
    Case("EndlessImage", obs(Box(-np.inf, np.inf, (40, 36), np.float32)), {"to_bytes": True}, "finite bounds"),
    Case("Board", obs(Box(-1, 1, (8, 8), np.int8)), error=FLAT),
    Case("BoardBytes", obs(Box(-1, 1, (8, 8), np.int8)), {"to_bytes": True}, shape=(1, 8, 8)),
    Case("Cells", obs(Box(0, 1, (10, 10, 4), np.uint8)), shape=(4, 10, 10)),
    Case("Ram", obs(Box(0, 255, (128,), np.uint8)), shape=(128,)),
    Case("Grey", obs(WHOLE), {"grayscale": True}, shape=(1, 40, 36)),
    Case("GreyFirst", obs(Box(0, 255, (3, 40, 36), np.uint8)), {"grayscale": True}, shape=(1, 40, 36)),
    Case("GreyFrames", obs(WHOLE), {"grayscale": True, "frame_stack": 3}, shape=(3, 40, 36)),
    Case("ColourFrames", obs(WHOLE), {"frame_stack": 2}, shape=(6, 40, 36)),
    Case("GreyOfGrey", obs(Box(0, 255, (40, 36), np.uint8)), {"grayscale": True}, "three colours"),
    Case("GreyOfVector", {}, {"grayscale": True}, "env.grayscale is for images of bytes"),
    Case("Volume", obs(Box(0, 255, (2, 9, 9, 9, 3), np.uint8)), error=FLAT),
    # other observations
    Case("Matrix", obs(Box(-np.inf, np.inf, (3, 3), np.float32)), error=FLAT),
    Case("MatrixFlat", obs(Box(-np.inf, np.inf, (3, 3), np.float32)), FLATTEN, shape=(9,)),
    Case("Scalar", obs(Box(-1, 1, (), np.float32)), error=FLAT),
    Case("ScalarFlat", obs(Box(-1, 1, (), np.float32)), FLATTEN, shape=(1,)),
    Case("Goal", obs(GOAL), error=FLAT),
    Case("GoalFlat", obs(GOAL), FLATTEN, shape=(5,)),
    Case("Nested", obs(NESTED), FLATTEN, shape=(11,)),
    Case("GoalKey", obs(GOAL, {"goal": np.zeros(2)}), FLATTEN, "keys"),
    Case("GoalShape", obs(GOAL, {"goal": np.zeros(3), "place": np.zeros(3)}), FLATTEN, "observation['goal'] has shape"),
    Case("State", obs(Discrete(16)), error=FLAT),
    Case("StateFlat", obs(Discrete(16)), FLATTEN, shape=(16,)),
    Case("Bits", obs(spaces.MultiBinary(6)), FLATTEN, shape=(6,)),
    Case("Counts", obs(spaces.MultiDiscrete([2, 3])), FLATTEN, shape=(5,)),
    Case("Sentences", obs(spaces.Sequence(Discrete(3))), error="observations must be arrays"),
    Case("SentencesFlat", obs(spaces.Sequence(Discrete(3))), FLATTEN, "no fixed size"),
    Case("Empty", obs(Box(-1, 1, (0,), np.float32)), error="are empty"),
    Case("Half", obs(Box(-1, 1, (3,), np.float16)), shape=(3,)),
    Case("Double", obs(Box(-1, 1, (3,), np.float64)), shape=(3,)),
    Case("Numbers", obs(Box(-5, 5, (3,), np.int64)), shape=(3,)),
    Case("Truths", obs(Box(0, 1, (3,), np.bool_)), shape=(3,)),
    Case("VectorFrames", {}, {"frame_stack": 3}, shape=(6,)),
    # what is returned
    Case("WrongShape", obs(Box(-1, 1, (2,), np.float32), np.zeros(3)), error="has shape [3], but the space has [2]"),
    Case("NoObservation", {"observe": lambda self: None}, error="is None, not an array"),
    Case("Words", {"observe": lambda self: "left"}, error="is 'left', not an array"),
    Case("List", {"observe": lambda self: [0.5, 1]}),
    Case("Ragged", {"observe": lambda self: [[0.5], [1, 2]]}, error="not an array"),
    Case("WholeFloats", obs(Box(0, 255, (128,), np.uint8), np.full(128, 7.0))),
    Case("BrokenFloats", obs(Box(0, 255, (128,), np.uint8), np.full(128, 7.5)), error="holds 7.5"),
    Case("View", {"observe": lambda self: np.zeros(8, np.float32)[::-4]}),
    Case("Reused", {"observe": reused}),
    Case("Shared", {"observe": shared}),
    Case("Tensor", {"observe": lambda self: torch.zeros(2)}),
    Case("FirstNaN", {"observe": lambda self: np.full(2, np.nan)}, error=FINITE),
    Case("LateNaN", {"observe": lambda self: LATE(self)}, error=FINITE),
    Case("Overflow", obs(LARGE, np.array([0, 1e300])), error=FINITE),
    Case("RewardNaN", pays(float("nan")), error=FINITE),
    Case("RewardOverflow", pays(1e300), error=FINITE),
    Case("RewardArray", pays(np.ones(1)), error="reward is an array of shape [1]"),
    Case("RewardTuple", pays((1.0, 2.0)), error="reward is a tuple of 2"),
    Case("RewardNone", pays(None), error="reward is None"),
    Case("RewardWord", pays("much"), error="reward is 'much'"),
    Case("RewardTruth", pays(True)),
    Case("RewardHalf", pays(np.float16(0.5))),
    Case("RewardTensor", pays(torch.tensor(1.0))),
    Case("FourValues", steps(np.zeros(2, np.float32), 1.0, False, {}), error="must return observation, reward"),
    Case("NoValues", {"step": lambda self, action: None}, error="must return observation, reward"),
    Case("EndIsNone", steps(np.zeros(2, np.float32), 1.0, None, False, {}), error="terminated is None"),
    Case("EndIsNumber", steps(np.zeros(2, np.float32), 1.0, np.int64(1), 0, {})),
    Case(
        "BareReset", {"reset": lambda self, seed=None, options=None: np.zeros(2)}, error="must return observation, info"
    ),
    Case("SeedlessReset", {"reset": lambda self: (np.zeros(2), {})}, error="(SeedlessReset.reset) must take seed= and"),
    Case(
        "OptionlessReset",
        {"reset": lambda self, seed=None: (np.zeros(2), {})},
        error="options=: def reset(self, *, seed=None, options=None)",
    ),
    Case(
        "ResetCallsWrongly",
        fails("reset", TypeError("f() got an unexpected keyword argument 'seed'")),
        error="reset raised TypeError: f() got an unexpected keyword argument 'seed' (odd_envs.py, line",
    ),
    Case("StepRaises", fails("step", KeyError("goal")), error="step raised KeyError: 'goal' (odd_envs.py, line"),
    Case("ResetRaises", fails("reset", RuntimeError("no\nserver")), error="reset raised RuntimeError: no server"),
    Case("InitRaises", fails("__init__", OSError("no licence")), error="making it raised OSError: no licence"),
    Case("NoSpace", {"action_space": None}, error="it has no action_space"),
    Case("NeedsMode", {"__init__": needs_mode}, error="render_mode"),
    Case("GivenMode", {"__init__": needs_mode}, kwargs={"render_mode": None}),
    Case("TakesConfig", {"__init__": takes_config}, kwargs={"config": {"sizes": [1, 2]}}),
    Case("OwnLength", {"__init__": own_length}, error="differ"),
    # actions
    Case("Later", acts(Discrete(3, start=5))),
    Case("Negative", acts(Discrete(3, start=-1))),
    Case("One", acts(Discrete(1))),
    Case("IntegerBox", acts(Box(0, 10, (1,), np.int64))),
    Case("NegativeIntegers", acts(Box(-3, -1, (2,), np.int32))),
    Case("ByteBox", acts(Box(0, 255, (2,), np.uint8))),
    Case("FixedDimension", acts(Box(np.float32([0, 1]), np.float32([1, 1])))),
    Case("MatrixBox", acts(Box(-2, 3, (2, 2), np.float32))),
    Case("ScalarBox", acts(Box(-2, 3, (), np.float32))),
    Case("DoubleBox", acts(Box(-2, 3, (2,), np.float64))),
    Case("WideBox", acts(Box(-1e6, 1e6, (2,), np.float32))),
    Case("Unbounded", acts(LINE), error="env.action_bound=1"),
    Case("Bounded", acts(LINE), {"action_bound": 2.0}),
    Case("HalfBounded", acts(Box(np.float32([0, -1]), np.float32([np.inf, 1]))), {"action_bound": 2.0}),
    Case("TooBounded", acts(Box(5, np.inf, (1,), np.float32)), {"action_bound": 2.0}, "choose a larger one"),
    Case("HugeBox", acts(Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (1,))), error="env.action_bound"),
    Case("EmptyBox", acts(Box(-1, 1, (0,), np.float32)), error="nothing to choose"),
    Case("Several", acts(spaces.MultiDiscrete([2, 3])), error="one discrete action for each combination"),
    Case("Switches", acts(spaces.MultiBinary(3)), error="one discrete action for each combination"),
    Case("Both", acts(spaces.Tuple([Discrete(2), Box(-1, 1, (1,))])), error="actions must be"),
    Case("Named", acts(spaces.Dict({"gas": Box(0, 1, (1,))})), error="actions must be"),
    # time
    Case("Endless", steps(np.zeros(2, np.float32), 1.0, False, False, {}), {"max_steps": 4}),
    Case("Skips", {}, {"frame_skip": 2, "max_steps": 2}),
    Case("EndsAtOnce", steps(np.zeros(2, np.float32), 1.0, True, True, {})),
]
LATE = LateNaN()
