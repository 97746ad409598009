"""What conf/ holds, and overrides that make any of its recipes a matter of seconds."""

from __future__ import annotations

from functools import cache

import awkward_envs  # noqa: F401  they are known by their names from here on
from omegaconf import OmegaConf

from mbrl_lab.config import CONF, compose_config

RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml"))
ENVS = sorted(path.stem for path in (CONF / "env").glob("*.yaml"))
EXPERIMENTS = sorted(
    path.relative_to(CONF / "experiment").with_suffix("").as_posix() for path in CONF.glob("experiment/**/*.yaml")
)
FAVOURITES = ("cartpole", "pendulum", "breakout", "minatar_breakout")
"""Of their families, the quickest, with known equations where there are any."""

NEEDS = {"gym": ["env.id=Acrobot-v1"], "atari": ["env.game=pong"]}
"""What an environment's file leaves open."""

EXTRA = {"dmc": ["dm_control"]}
"""Packages that an environment needs and that only an extra installs."""

SMALL = {
    **{"planner.population": 16, "planner.elites": 4, "planner.proposals": 3},
    **{"planner.horizon": 5, "planner.iterations": 1},
    **{"dynamics.members": 2, "dynamics.imagination.elites": 2, "dynamics.width": 16, "policy.width": 16},
    **{
        "dynamics.length": 5,
        "dynamics.state.units": 16,
        "dynamics.state.blocks": 2,
        "dynamics.state.groups": 4,
        "dynamics.state.classes": 4,
    },
}
OF_IMAGES = {
    "planner.population": 4,
    "planner.proposals": 1,
    "planner.horizon": 2,
    "dynamics.width": 8,
    "dynamics.trainer.max_updates": 4,
}
"""Images are many numbers, and a plan foresees them."""
OF_PIXELS = {"algo.update.batch": 4, "dynamics.trainer.batch": 8, "algo.rollouts.starts": 8, "encoder.hidden": 32}
SHORT = "+env.make.max_episode_steps=25"
SHORT_OF = {"pixels": ["env.frame_skip=16"], "grid": ["env.make.max_steps=25"]}
"""What makes episodes of a few dozen steps: Atari has no limit, but a step may hold more of its frames."""


ON_ATARI = "ddqn_pixels"
"""The other recipes of pixels play something that costs less than their networks."""


def family_of(env: str) -> str:
    """discrete, continuous, ...: what an environment's file picks."""
    first = OmegaConf.load(CONF / "env" / f"{env}.yaml")["defaults"][0]
    return family_of(first) if isinstance(first, str) else str(first["/family"])


def env_of(family: str) -> str:
    """An environment of a family."""
    return next(env for env in sorted(ENVS, key=lambda e: (e not in FAVOURITES, e)) if family_of(env) == family)


def smoke(recipe: str) -> list[str]:
    """A recipe's algo and an environment of its family, with debug=smoke."""
    algo, _, family = recipe.rpartition("_")
    return [f"algo={algo}", f"env={env_of(family)}", "debug=smoke"]


@cache
def small(recipe: str) -> list[str]:
    """A recipe's algo and an environment of its family, with debug=smoke, a quick planner and short episodes."""
    words, family = smoke(recipe), recipe.rpartition("_")[2]
    if family == "pixels" and recipe != ON_ATARI:
        stack = 1 if recipe.startswith("dreamer") else 4
        words[1:2] = ["env=gym", "family=pixels", "env.id=Pictured", f"env.frame_stack={stack}"]
    cfg = compose_config(words)
    sizes = SMALL | (OF_IMAGES if family in SHORT_OF else {}) | (OF_PIXELS if family == "pixels" else {})
    fewer = [f"{key}={n}" for key, n in sizes.items() if (OmegaConf.select(cfg, key) or 0) > n]
    interval = 8 if family == "pixels" else 3
    often = [key for key in ("algo.every", "algo.update.every") if (OmegaConf.select(cfg, key) or interval) < interval]
    fewer += [f"{key}={interval}" for key in often]
    gym = cfg.env.make._target_ == "mbrl_lab.env.make_gym"
    short = [SHORT] if gym else [] if "env=gym" in words else SHORT_OF.get(family, [])
    return [*words, *fewer, *short, "env.num=1", "video.final=0", "steps=150"]
