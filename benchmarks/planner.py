"""Model evaluations a second of a CEM plan at mbrl-lib's CartPole setting, with mbrl-lib's own beside it on request.

    python benchmarks/planner.py --threads 2 --bf16 --compile
    python benchmarks/planner.py --threads 2 --bf16 --compile --mbrl-lib ../mbrl-lib

Setting: 350 sequences, 5 iterations, 20 particles, horizon 15; 7 Gaussian members of 4 x 200, a member drawn at every
step (TS1). Like for like, rewards and ends are computed; "heads" learns both, which mbrl-lib cannot for ends. Each
library runs in a process of its own, set up as it sets itself up for training, and waits while the other is timed.
Each round times every variant once, so that a busy machine slows all of them; the median of the rounds is printed.

Quality is the mean score of plans from 32 starts on one model fitted to the true equations: every variant plans with
its own arithmetic, mbrl-lib's optimizer too, and the float32 model scores all plans, over 140 particles.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mbrl_lab.config.parts import build
from mbrl_lab.dynamics import Ensemble, TerminationModel
from mbrl_lab.dynamics.ensemble import Imagination, Known, Regression
from mbrl_lab.env import physics
from mbrl_lab.nets.speed import compile_parts, keep_freed_memory
from mbrl_lab.planner import CEM
from mbrl_lab.planner.search import score_sequences
from mbrl_lab.protocols import PlanContext
from mbrl_lab.types import EnvSpec, Step

CONF = Path(__file__).parents[1] / "conf"
SPEC = EnvSpec((4,), torch.float32, 1, discrete=False)
POPULATION, ITERATIONS, PARTICLES, HORIZON, MEMBERS, WIDTH, DEPTH = 350, 5, 20, 15, 7, 200, 4
EVALUATIONS = POPULATION * ITERATIONS * PARTICLES * HORIZON
STARTS, MODEL_PARTICLES, FIT_UPDATES = 32, 140, 1_500
Plan = Callable[[], object]


def settings(path: str, **changes: Any) -> dict[str, Any]:
    """A config file's arguments, its groups built, with changes."""
    given = {str(k): v for k, v in OmegaConf.load(CONF / f"{path}.yaml").items_ex(resolve=False)}  # type: ignore[union-attr]
    given = {k: v for k, v in given.items() if k not in ("_target_", "_partial_", "defaults", *changes)}
    return {k: build(v) if isinstance(v, DictConfig) and "_target_" in v else v for k, v in given.items()} | changes


def fitted_model(device: str, heads: bool) -> Ensemble:
    """An ensemble fitted to the true equations; with `heads` it learned rewards and ends, else they are computed."""
    torch.manual_seed(0)
    groups = {
        "regression": Regression("delta", "each", gaussian=True, noise=0.0, norm=False, dropout=0.0),
        "imagination": Imagination(MEMBERS, "ts1"),
        "termination": partial(TerminationModel, **OmegaConf.load(CONF / "env/cartpole.yaml").env.termination),
        "known": Known(None, None) if heads else Known(speed, physics.cartpole_termination),
    }
    model = Ensemble(SPEC, **settings("dynamics/ensemble", members=MEMBERS, width=WIDTH, depth=DEPTH, **groups))
    model = model.to(device)
    steps = true_steps(20_000).to(device)
    model.normalise(steps)
    model.fit_termination_bounds(steps)
    for _ in range(FIT_UPDATES):
        model.update(true_steps(256).to(device), terminations=true_steps(256, angle=0.4).to(device))
    return model


def true_steps(count: int, angle: float = 0.2) -> Step:
    """[2, count] rows: a state that leans up to `angle`, then what a random force makes of it."""
    obs = torch.empty(count, 4).uniform_(-1, 1) * torch.tensor([2.4, 2.0, angle, 2.0])
    action = torch.empty(count, 1).uniform_(-1, 1)
    after = physics.cartpole_next_obs(obs, (action[:, 0] + 1) / 2)
    over = physics.cartpole_termination(obs, action, after)
    nothing, no = torch.zeros(count), torch.zeros(count, dtype=torch.bool)
    before = (torch.zeros_like(action), obs, nothing, no, ~no)
    rows = (action, after, speed(obs, action, after), over, no)
    return Step(*(torch.stack(pair) for pair in zip(before, rows, strict=True)))


def speed(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """A reward that tells plans apart: go right as fast as the pole allows."""
    return next_obs[:, 1]


def cem() -> CEM:
    """The planner at mbrl-lib's setting."""
    search = {"population": POPULATION, "elites": 35, "iterations": ITERATIONS, "particles": PARTICLES}
    return CEM(**settings("planner/cem", horizon=HORIZON, **search))


class Variant:
    """One way to plan with a model: its arithmetic, and whether it is compiled."""

    def __init__(self, model: Ensemble, bfloat16: bool, compiled: bool) -> None:
        self.model, self.device, self.bfloat16 = copy.deepcopy(model), model.elite.device, bfloat16
        self.planner = cem()
        if compiled:
            compile_parts(self.model)

    def plan(self, obs: Tensor) -> Tensor:
        """[B, 4] -> [B, H, 1]: the best sequence found."""
        previous = self.planner.start(SPEC, len(obs), self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.planner.plan(self.model, obs, previous, PlanContext())[1]["mean"]


def starts(device: str) -> Tensor:
    """[STARTS, 4] states that lean and move, so that plans matter."""
    generator = torch.Generator().manual_seed(1)
    unit = 2 * torch.rand(STARTS, 4, generator=generator) - 1
    return (unit * torch.tensor([1.0, 0.5, 0.1, 0.5])).to(device)


def score(model: Ensemble, sequences: Tensor) -> float:
    """The mean return of sequences [STARTS, H, 1] from `starts`, in float32."""
    torch.manual_seed(2)
    return score_sequences(model, starts(str(sequences.device)), sequences.unsqueeze(1), MODEL_PARTICLES).mean().item()


def ours(device: str, bfloat16: bool, compiled: bool) -> tuple[dict[str, Plan], Callable[[], dict[str, float]]]:
    """Our variants by name, and their plans' quality."""
    keep_freed_memory()
    kinds = {"fp32": (False, False)}
    kinds |= {"fp32 compiled": (False, True)} if compiled else {}
    kinds |= {"bf16": (True, False)} if bfloat16 else {}
    kinds |= {"bf16 compiled": (True, True)} if bfloat16 and compiled else {}
    models = {"": fitted_model(device, heads=False), ", heads": fitted_model(device, heads=True)}
    found = {f"ours {k}{suffix}": Variant(m, *kind) for suffix, m in models.items() for k, kind in kinds.items()}
    one = torch.zeros(1, 4, device=device)

    def quality() -> dict[str, float]:
        each = {name: (v, models[", heads" if name.endswith("heads") else ""]) for name, v in found.items()}
        return {
            name: score(model, torch.cat([v.plan(s[None]) for s in starts(device)]))
            for name, (v, model) in each.items()
        }

    return {name: partial(v.plan, one) for name, v in found.items()}, quality


def theirs(device: str, path: str) -> tuple[dict[str, Plan], Callable[[], dict[str, float]]]:
    """mbrl-lib's CEM with mbrl-lib's ensemble; with heads its rewards are learned, its ends never."""
    models, planning, _, ends = imported(path)

    def agent(evaluator: Callable[[np.ndarray, Tensor], Tensor]) -> Any:
        optimizer = {
            "_target_": "mbrl.planning.CEMOptimizer",
            "num_iterations": ITERATIONS,
            "elite_ratio": 0.1,
            "population_size": POPULATION,
            "alpha": 0.1,
            "lower_bound": None,
            "upper_bound": None,
            "device": device,
            "return_mean_elites": True,
        }
        low, high = [-1.0], [1.0]
        made = planning.TrajectoryOptimizerAgent(OmegaConf.create(optimizer), low, high, HORIZON)
        made.set_trajectory_eval_fn(evaluator)
        return made

    def plan(heads: bool) -> Plan:
        silu = {"_target_": "torch.nn.SiLU"}
        sizes = (5, 4 + heads, device, DEPTH, MEMBERS, WIDTH)
        net = models.GaussianMLP(*sizes, propagation_method="random_model", activation_fn_cfg=silu)
        model = models.OneDTransitionRewardModel(
            net, target_is_delta=True, normalize=True, normalize_double_precision=True, learned_rewards=heads
        )
        spaces = SimpleNamespace(observation_space=None, action_space=None)
        world = models.ModelEnv(spaces, model, ends.cartpole, None if heads else their_speed)
        planner = agent(lambda obs, plans: world.evaluate_action_sequences(plans, obs, PARTICLES))
        return lambda: planner.act(np.zeros(4, dtype=np.float32))

    def quality() -> dict[str, float]:
        found = {}
        for name, heads in (("mbrl-lib fp32", False), ("mbrl-lib fp32, heads", True)):
            model = fitted_model(device, heads)
            planner = agent(partial(on_our_model, model))
            sequences = []
            for start in starts("cpu").numpy():
                planner.reset(HORIZON)
                sequences.append(torch.as_tensor(planner.plan(start), dtype=torch.float32, device=device))
            found[name] = score(model, torch.stack(sequences))
        return found

    return {"mbrl-lib fp32": plan(False), "mbrl-lib fp32, heads": plan(True)}, quality


def on_our_model(model: Ensemble, obs: np.ndarray, plans: Tensor) -> Tensor:
    """Scores [N] of plans [N, H, 1], for mbrl-lib's optimizer to plan with our model."""
    return score_sequences(model, torch.as_tensor(obs, device=plans.device)[None], plans[None], PARTICLES)[0]


def their_speed(action: Tensor, next_obs: Tensor) -> Tensor:
    """`speed` with the arguments and the shape that mbrl-lib asks for."""
    return speed(next_obs, action, next_obs)[:, None]


def imported(path: str) -> list[ModuleType]:
    """mbrl-lib's models, planning, reward functions and termination functions."""
    sys.path.insert(0, path)
    unused = {name for name in ("termcolor", "tqdm") if importlib.util.find_spec(name) is None}
    sys.modules.update({name: ModuleType(name) for name in unused})  # for its logger and its trainer
    names = ("models", "planning", "env.reward_fns", "env.termination_fns")
    found = [importlib.import_module(f"mbrl.{name}") for name in names]
    for name in unused:
        del sys.modules[name]  # torch.compile looks for them
    return found


def serve(threads: int, device: str, make: Callable[[], Any], line: Connection) -> None:
    """A library's process: tells its variants' names, then times the one it is asked for, or scores all of them."""
    torch.set_num_threads(threads)
    plans, quality = make()
    for plan in plans.values():
        plan()
        plan()
    line.send(list(plans))
    for wanted in iter(line.recv, None):
        line.send(quality() if wanted == "quality" else seconds(plans[wanted], device))


def seconds(plan: Plan, device: str) -> float:
    """Wall time of one plan."""
    start = time.perf_counter()
    plan()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast too; slow on a processor without bfloat16")
    parser.add_argument("--compile", action="store_true", help="compiled too; compiling takes minutes")
    parser.add_argument("--quality", action="store_true", help="the mean score of the plans too; takes minutes")
    parser.add_argument("--mbrl-lib", metavar="PATH", help="a checkout of facebookresearch/mbrl-lib")
    given = parser.parse_args()
    makers = [partial(theirs, given.device, given.mbrl_lib)] if given.mbrl_lib else []
    makers.append(partial(ours, given.device, given.bf16, given.compile))
    lines: dict[str, Connection] = {}
    spawn = multiprocessing.get_context("spawn")
    for make in makers:
        here, there = spawn.Pipe()
        spawn.Process(target=serve, args=(given.threads, given.device, make, there), daemon=True).start()
        there.close()  # so that a process that fails is noticed
        lines |= dict.fromkeys(here.recv(), here)

    def ask(name: str, question: str) -> Any:
        lines[name].send(question)
        return lines[name].recv()

    rounds = [[ask(name, name) for name in lines] for _ in range(given.rounds)]
    rates = [EVALUATIONS / statistics.median(times) for times in zip(*rounds, strict=True)]
    scores: dict[str, float] = {}
    for line in dict.fromkeys(lines.values()):
        if given.quality:
            line.send("quality")
            scores |= line.recv()
        line.send(None)
    for name, rate in zip(lines, rates, strict=True):
        ratio = f"  {rate / rates[0]:5.2f} x" if given.mbrl_lib else ""
        score = f"  score {scores[name]:6.3f}" if scores else ""
        print(f"{name:32} {rate / 1e6:6.3f} M evaluations/s  {EVALUATIONS / rate * 1e3:7.0f} ms a plan{ratio}{score}")


if __name__ == "__main__":
    main()
