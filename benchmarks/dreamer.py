"""Updates a second of Dreamer's model and policy, and imagined steps a second, with dreamerv3-torch's beside them.

    OMP_NUM_THREADS=1 python benchmarks/dreamer.py --bf16 --compile  # the latent model and rssm_xs, on vectors
    OMP_NUM_THREADS=1 python benchmarks/dreamer.py --env breakout --models rssm_xs --rounds 3
    OMP_NUM_THREADS=1 python benchmarks/dreamer.py --models rssm_xs --bf16 --dreamerv3-torch ../dreamerv3-torch

An update is one gradient step of the model on `--batch` windows of `--length` steps, and one of actor and critic on
imagined rollouts of 15 steps from `--starts` states. Imagination is such rollouts alone, with their rewards, without
gradients. Screens are 64 x 64. The actor learns by REINFORCE where actions are discrete, else through the model.

Beside dreamerv3-torch (NM512) batch, rollouts, units, latents, widths, depths and bins are equal, every step of the
batch begins a rollout, and our recurrent state is one block. Theirs also learns the initial recurrent state,
regularises the critic towards its target network and computes more metrics; its layers before norms have no biases; for
images it has four convolutions with norms where ours has three without. Its `compile` option wraps modules whose
methods then run as they were, so it is timed without.

Each variant runs in a process of its own and waits while another is timed. Each round times every variant once, so that
a busy machine slows all of them. Printed are medians of the rounds: by the clock, and how many times as many updates as
the first variant makes, by the clock and in seconds of the processor, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import multiprocessing
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial, partialmethod
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from mbrl_lab.app import env_makers
from mbrl_lab.config import build, compose_config
from mbrl_lab.nets.speed import compile_parts, keep_freed_memory
from mbrl_lab.runner import TRAIN
from mbrl_lab.types import EnvSpec, Step, Windows

HORIZON, SIDE, THEIR_CHANNELS = 15, 64, 8


class Work(NamedTuple):
    """What is timed, and how large it is."""

    update: Callable[[], object]
    imagine: Callable[[], object]
    parameters: int


def main() -> None:
    given = arguments()
    makers: dict[str, Callable[[], Work]] = {}
    for model in given.models:
        if given.dreamerv3_torch:
            makers[f"dreamerv3-torch {model} fp32"] = partial(theirs, given, model)
        for bf16, compiled in itertools.product([False, True][: 1 + given.bf16], [False, True][: 1 + given.compile]):
            name = f"ours {model} {'bf16' if bf16 else 'fp32'}{' compiled' if compiled else ''}"
            makers[name] = partial(ours, given, model, bf16, compiled)
    lines: dict[str, Connection] = {}
    parameters: dict[str, int] = {}
    spawn = multiprocessing.get_context("spawn")
    for name, make in makers.items():
        lines[name], there = spawn.Pipe()
        spawn.Process(target=serve, args=(make, there), daemon=True).start()
        there.close()  # so that a process that fails is noticed
        parameters[name] = lines[name].recv()
    rounds = [{name: asked(line) for name, line in lines.items()} for _ in range(given.rounds)]
    for line in lines.values():
        line.send("stop")
    report(given, parameters, rounds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="pendulum")
    parser.add_argument("--models", nargs="+", default=["latent", "rssm_xs"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--starts", type=int, help="256; every row of the batch beside dreamerv3-torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="autocast too; slow on a processor without bfloat16")
    parser.add_argument("--compile", action="store_true", help="compiled too; compiling takes minutes")
    parser.add_argument("--dreamerv3-torch", metavar="PATH", help="a checkout of NM512/dreamerv3-torch; for RSSMs")
    given = parser.parse_args()
    given.starts = given.starts or (given.batch * given.length if given.dreamerv3_torch else 256)
    return given


def ours(given: argparse.Namespace, model: str, bf16: bool, compiled: bool) -> Work:
    """DreamerV3's policy on a model of ours, untrained."""
    cfg, spec = chosen(given, model)
    algo = build(cfg.algo)(spec)
    if compiled:
        compile_parts(algo)
    steps = rows(given, spec)
    digits = partial(torch.autocast, "cpu", torch.bfloat16, bf16, cache_enabled=False)
    with digits():
        begun = algo._start_states(Windows(steps, algo.model.update(steps)[0]))

    def update() -> None:
        with digits():
            states, _ = algo.model.update(steps)
            algo.policy.learn_in(algo.model, algo._start_states(Windows(steps, states)), HORIZON)

    def imagine() -> None:
        with torch.no_grad(), digits():
            algo.model.imagine_trajectory(lambda features: algo.policy.act(features, True), begun, HORIZON)

    return Work(update, imagine, size(algo.model, algo.policy.actor, algo.policy.critic))


def theirs(given: argparse.Namespace, model: str) -> Work:
    """dreamerv3-torch's model and behaviour at the sizes of ours."""
    cfg, spec = chosen(given, model)
    models = imported(given.dreamerv3_torch)
    shape = spec.obs_shape if len(spec.obs_shape) == 1 else (*spec.obs_shape[1:], spec.obs_shape[0])
    name = "vector" if len(shape) == 1 else "image"
    config = their_config(given.dreamerv3_torch, cfg, spec, name)
    space = SimpleNamespace(spaces={name: SimpleNamespace(shape=shape)})
    with contextlib.redirect_stdout(None):
        world = models.WorldModel(space, None, 0, config)
        behaviour = models.ImagBehavior(config, world)
    world.requires_grad_(False)
    behaviour.requires_grad_(False)
    steps = rows(given, spec)
    first = torch.zeros_like(steps.reward)
    first[0] = 1
    obs = steps.obs if name == "vector" else steps.obs.movedim(2, -1)
    fields = {"image": first, name: obs, "action": spec.encode_action(steps.action), "reward": steps.reward}
    fields |= {"is_first": first, "is_terminal": steps.terminal}
    data = {key: x.transpose(0, 1).numpy() for key, x in fields.items()}
    begun = world._train(data)[0]
    heads, feature = world.heads, world.dynamics.get_feat

    def update() -> None:
        behaviour._train(world._train(data)[0], lambda f, states, a: heads["reward"](feature(states)).mode())

    @torch.no_grad()
    def imagine() -> None:
        features = behaviour._imagine(begun, behaviour.actor, HORIZON)[0]
        heads["reward"](features).mode(), heads["cont"](features).mean

    return Work(update, imagine, size(world, behaviour.actor, behaviour.value))


def imported(path: str) -> Any:
    """Their module of models, for a processor, without the packages that it needs for logs."""
    sys.path.insert(0, path)
    board = ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = None  # type: ignore[attr-defined]
    sys.modules[board.__name__] = board
    networks = importlib.import_module("networks")
    networks.MLP.__init__ = partialmethod(networks.MLP.__init__, device="cpu")
    return importlib.import_module("models")


def their_config(path: str, cfg: DictConfig, spec: EnvSpec, name: str) -> SimpleNamespace:
    """Their settings at the sizes of ours."""
    config = OmegaConf.load(Path(path) / "configs.yaml").defaults
    ours, policy = cfg.dynamics, cfg.policy
    keys = {"mlp_keys": "vector", "cnn_keys": "image", "cnn_depth": THEIR_CHANNELS}
    keys |= {"mlp_layers": ours.depth, "mlp_units": ours.width}
    actor = {"dist": "onehot", "std": "none"} if spec.discrete else {}
    changes = {
        "device": "cpu",
        "num_actions": spec.action_dim,
        "dyn_hidden": ours.width,
        "dyn_deter": ours.units,
        "dyn_stoch": ours.groups,
        "dyn_discrete": ours.classes,
        "units": ours.width,
        "encoder": keys,
        "decoder": keys,
        "actor": actor | {"layers": policy.depth},
        "critic": {"layers": policy.depth},
        "reward_head": {"layers": ours.depth},
        "cont_head": {"layers": ours.depth},
        "imag_horizon": HORIZON,
        "imag_gradient": policy.gradient,
    }
    return SimpleNamespace(**OmegaConf.to_container(OmegaConf.merge(config, changes)))  # type: ignore[arg-type]


def chosen(given: argparse.Namespace, model: str) -> tuple[DictConfig, EnvSpec]:
    """A config of ours, and what its environment is like, in a process that is set up as ours are to learn."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    words = ["algo=dreamer", f"env={given.env}", f"dynamics={model}", "preset=none", "budget=none"]
    words += [
        f"dynamics.trainer.batch={given.batch}",
        f"dynamics.length={given.length}",
        f"algo.update.batch={given.starts}",
    ]
    words += ["policy.width=${dynamics.width}", "policy.norm=true", "policy.bins=255"]
    words += ["dynamics.state.blocks=1"] if given.dreamerv3_torch else []
    cfg = compose_config(words)
    envs = env_makers(cfg)[1](1, TRAIN)
    envs.close()
    spec = envs.spec
    if min(spec.obs_shape[1:], default=0) > SIDE:
        spec = replace(spec, obs_shape=(spec.obs_shape[0], SIDE, SIDE))
    cfg.policy.gradient = "reinforce" if spec.discrete else "dynamics"
    return cfg, spec


def rows(given: argparse.Namespace, spec: EnvSpec) -> Step:
    """[length, batch] random rows."""
    shape = given.length, given.batch
    if spec.obs_dtype == torch.uint8:
        obs = torch.randint(2, (*shape, *spec.obs_shape), dtype=torch.uint8)
    else:
        obs = torch.randn(*shape, *spec.obs_shape)
    action = spec.sample(given.length * given.batch).unflatten(0, shape)
    no = torch.zeros(shape, dtype=torch.bool)
    return Step(action, obs, torch.randn(shape), no, no)


def size(*nets: torch.nn.Module) -> int:
    return sum(p.numel() for net in nets for p in net.parameters())


def serve(make: Callable[[], Work], line: Connection) -> None:
    """A variant's process: when asked, seconds of an update by the clock and of the processor, and of imagining."""
    work = make()
    for _ in range(3):  # compiles, and fills the memory that freed blocks are kept in
        work.update()
        work.imagine()
    line.send(work.parameters)
    while line.recv() == "go":
        line.send((*seconds(work.update), seconds(work.imagine)[0]))


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def asked(line: Connection) -> tuple[float, ...]:
    line.send("go")
    return tuple(line.recv())


def report(given: argparse.Namespace, parameters: dict[str, int], rounds: list[dict[str, tuple[float, ...]]]) -> None:
    """A line for each variant."""
    base = next(iter(parameters))
    print(f"{given.env}, batch {given.batch} x {given.length}, {given.starts} rollouts of {HORIZON} steps")
    for name, count in parameters.items():
        clock, imagined = (statistics.median(r[name][k] for r in rounds) for k in (0, 2))
        by_clock, by_processor = (statistics.median(r[base][k] / r[name][k] for r in rounds) for k in (0, 1))
        speed = f"{1 / clock:6.2f} updates/s, {given.starts * HORIZON / imagined:8,.0f} imagined steps/s"
        print(f"{name:28} {count:10,} parameters {speed} {by_clock:5.2f} x, of processor {by_processor:5.2f} x")


if __name__ == "__main__":
    main()
