"""Updates a second of SAC, and a model's fit and imagination at MBPO's sizes, with mbrl-lib's SAC beside on request.

    OMP_NUM_THREADS=1 python benchmarks/updates.py --bf16
    OMP_NUM_THREADS=1 python benchmarks/updates.py --bf16 --mbrl-lib ../mbrl-lib

SAC: HalfCheetah's sizes, batch 256, two critics and an actor of 2 layers, an update with its draw from a replay of
100,000 rows. Model: 7 Gaussian members of 4 x 200, of which 5 imagine; a gradient step on 256 rows for each member, and
one imagined step from each of 100,000 starts.

Each library runs in a process of its own and waits while the other is timed. Each round times every variant once, so
that a busy machine slows all of them; medians of the rounds are printed. "of products" is the share of the time that
the same matrix products take alone, in the same digits, one for each layer and pass, of all members or critics as one.
The ratio to mbrl-lib is that of processor seconds, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from planner import imported, settings

from mbrl_lab.dynamics import Ensemble, TerminationModel
from mbrl_lab.dynamics.ensemble import Imagination, Regression
from mbrl_lab.nets.encoder import Vector
from mbrl_lab.nets.speed import compile_parts, keep_freed_memory
from mbrl_lab.policy import SAC
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Step

OBS, ACTION, BATCH, ROWS = 17, 6, 256, 100_000
SPEC = EnvSpec((OBS,), torch.float32, ACTION, discrete=False)
WIDTHS = (256, 512)
MEMBERS, ELITES, MODEL_WIDTH, MODEL_DEPTH, STARTS = 7, 5, 200, 4, 100_000
Shape = tuple[int, int, int, int]
"""[K, N, i] times [K, i, o]."""


class Job(NamedTuple):
    """What is timed: `run` so many `times`, each of which comes to `amount` of the `unit`."""

    run: Callable[[], object]
    times: int
    amount: int
    unit: str
    products: list[Shape]
    dtype: torch.dtype


def rows(count: int) -> Step:
    """[count] random rows of one stream."""
    no = torch.zeros(count, dtype=torch.bool)
    return Step(torch.rand(count, ACTION) * 2 - 1, torch.randn(count, OBS), torch.randn(count), no, no)


def filled() -> Replay:
    """All rows of a run, in one column."""
    replay = Replay(SPEC, ROWS, 1, seed=0)
    replay.restore(0, Step(*(x.unsqueeze(1) for x in rows(ROWS))))
    replay.added = ROWS
    return replay


def passes(members: int, batch: int, sizes: list[int], backward: str) -> list[Shape]:
    """Products of a pass forwards, and backwards to `none`, the `weights` or the `inputs` alone."""
    layers = list(itertools.pairwise(sizes))
    found = [(members, batch, i, o) for i, o in layers]
    if backward == "weights":
        found += [(members, i, batch, o) for i, o in layers]
    if backward != "none":
        found += [(members, batch, o, i) for i, o in layers[backward == "weights" :]]
    return found


def sac_products(width: int) -> list[Shape]:
    """An update's: the target, the critics' loss, and the actor's through the critics."""
    actor, critic = [OBS, width, width, 2 * ACTION], [OBS + ACTION, width, width, 1]
    found = passes(1, BATCH, actor, "none") + passes(2, BATCH, critic, "none")
    found += passes(2, BATCH, critic, "weights")
    return found + passes(1, BATCH, actor, "weights") + passes(2, BATCH, critic, "inputs")


def model_sizes() -> list[int]:
    return [OBS + ACTION, *[MODEL_WIDTH] * MODEL_DEPTH, 2 * (OBS + 1)]


@contextlib.contextmanager
def digits(dtype: torch.dtype) -> Iterator[None]:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32, cache_enabled=False):
        yield


def our_updates(width: int, compiled: bool, dtype: torch.dtype) -> Job:
    torch.manual_seed(0)
    policy = SAC(SPEC, **settings("policy/sac", encoder=Vector, width=width))
    if compiled:
        compile_parts(policy)
    replay = filled()

    def update() -> None:
        with digits(dtype):
            policy.update(replay.sample(BATCH, policy.window))

    return Job(update, 50, 1, "SAC updates/s", sac_products(width), dtype)


def model(compiled: bool) -> Ensemble:
    torch.manual_seed(0)
    groups = {
        "regression": Regression("delta", "each", gaussian=True, noise=0.0, norm=False, dropout=0.0),
        "imagination": Imagination(ELITES, "ts1"),
        "termination": partial(TerminationModel, bounds=False, hazard=0.0),
    }
    net = {"members": MEMBERS, "width": MODEL_WIDTH, "depth": MODEL_DEPTH}
    found = Ensemble(SPEC, **settings("dynamics/ensemble", **net, **groups))
    found.normalise(Step(*(x.unflatten(0, (2, -1)) for x in rows(2_000))))
    if compiled:
        compile_parts(found)
    return found


def our_fit(compiled: bool, dtype: torch.dtype) -> Job:
    ensemble, each = model(compiled), rows(2 * MEMBERS * BATCH)
    steps = Step(*(x.unflatten(0, (2, MEMBERS, BATCH)) for x in each))

    def update() -> None:
        with digits(dtype):
            ensemble.update(steps)

    return Job(update, 5, MEMBERS * BATCH, "samples fitted/s", passes(MEMBERS, BATCH, model_sizes(), "weights"), dtype)


def our_imagination(compiled: bool, dtype: torch.dtype) -> Job:
    ensemble, start = model(compiled), rows(STARTS)

    def imagine() -> None:
        with digits(dtype), torch.no_grad():
            ensemble.imagine(start.obs, start.action)

    products = passes(ELITES, STARTS // ELITES, model_sizes(), "none")
    return Job(imagine, 1, STARTS, "imagined transitions/s", products, dtype)


def ours(bfloat16: bool, compiled: bool) -> dict[str, Job]:
    keep_freed_memory()
    kinds = {"fp32": (False, torch.float32)}
    kinds |= {"fp32 compiled": (True, torch.float32)} if compiled else {}
    kinds |= {"bf16": (False, torch.bfloat16)} if bfloat16 else {}
    kinds |= {"bf16 compiled": (True, torch.bfloat16)} if bfloat16 and compiled else {}
    found = {f"width {w}, ours {name}": our_updates(w, *kind) for w in WIDTHS for name, kind in kinds.items()}
    found |= {f"fit, ours {name}": our_fit(*kind) for name, kind in kinds.items()}
    return found | {f"imagine, ours {name}": our_imagination(*kind) for name, kind in kinds.items()}


def theirs(path: str) -> dict[str, Job]:
    """mbrl-lib's SAC on rows of its own replay, with freed memory kept as ours keeps it."""
    keep_freed_memory()
    imported(path)
    sac = importlib.import_module("mbrl.third_party.pytorch_sac_pranz24.sac")
    replay = importlib.import_module("mbrl.util.replay_buffer")
    memory = replay.ReplayBuffer(ROWS, (OBS,), (ACTION,), rng=np.random.default_rng(0))
    each = rows(2_000)
    for k in range(1, 2_000):
        memory.add(
            each.obs[k - 1].numpy(), each.action[k].numpy(), each.obs[k].numpy(), each.reward[k].item(), False, False
        )
    space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION,))

    def job(width: int) -> Job:
        given = {"gamma": 0.99, "tau": 0.005, "alpha": 0.2, "policy": "Gaussian", "target_update_interval": 1}
        given |= {"automatic_entropy_tuning": True, "target_entropy": -3.0, "hidden_size": width, "lr": 3e-4}
        agent = sac.SAC(OBS, space, SimpleNamespace(device=torch.device("cpu"), **given))
        update = partial(agent.update_parameters, memory, BATCH, 1, reverse_mask=True)
        return Job(update, 50, 1, "SAC updates/s", sac_products(width), torch.float32)

    return {f"width {width}, mbrl-lib fp32": job(width) for width in WIDTHS}


def multiplied(products: list[Shape], dtype: torch.dtype) -> Callable[[], object]:
    """The products alone, on operands of the right shapes, each of which is used again where shapes are the same."""
    operands = {
        (k, n, i, o): (torch.randn(k, n, i).to(dtype), torch.randn(k, i, o).to(dtype)) for k, n, i, o in {*products}
    }
    return lambda: [torch.bmm(*operands[shape]) for shape in products]


def seconds(run: Callable[[], object], times: int) -> tuple[float, float]:
    """(by the clock, of the processor), each time."""
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(times):
        run()
    return (time.perf_counter() - clock) / times, (time.process_time() - processor) / times


def serve(threads: int, make: Callable[[], dict[str, Job]], line: Connection) -> None:
    """A library's process: tells its jobs, then times the one it is asked for, and its products alone."""
    torch.set_num_threads(threads)
    jobs = make()
    products = {name: multiplied(job.products, job.dtype) for name, job in jobs.items()}
    for name, job in jobs.items():
        seconds(job.run, job.times)
        seconds(products[name], 1)
    line.send({name: (job.amount, job.unit) for name, job in jobs.items()})
    for name in iter(line.recv, None):
        line.send((*seconds(jobs[name].run, jobs[name].times), seconds(products[name], jobs[name].times)[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--bf16", action="store_true", help="autocast too; slow on a processor without bfloat16")
    parser.add_argument("--compile", action="store_true", help="compiled too, those parts that can be")
    parser.add_argument("--mbrl-lib", metavar="PATH", help="a checkout of facebookresearch/mbrl-lib")
    given = parser.parse_args()
    makers = [partial(theirs, given.mbrl_lib)] if given.mbrl_lib else []
    makers.append(partial(ours, given.bf16, given.compile))
    lines: dict[str, Connection] = {}
    units: dict[str, tuple[int, str]] = {}
    spawn = multiprocessing.get_context("spawn")
    for make in makers:
        here, there = spawn.Pipe()
        spawn.Process(target=serve, args=(given.threads, make, there), daemon=True).start()
        there.close()  # so that a process that fails is noticed
        received = here.recv()
        units |= received
        lines |= dict.fromkeys(received, here)
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sorted(lines, key=lambda x: x[:9])}
    for _ in range(given.rounds):
        for name, each in times.items():
            lines[name].send(name)
            each.append(lines[name].recv())
    for line in {*lines.values()}:
        line.send(None)
    report(times, units)


def report(times: dict[str, list[tuple[float, float, float]]], units: dict[str, tuple[int, str]]) -> None:
    """A line for each variant."""
    for name, each in times.items():
        amount, unit = units[name]
        speed = amount / statistics.median(clock for clock, _, _ in each)
        share = statistics.median(products / processor for _, processor, products in each)
        base = times.get(f"{name.split(',')[0]}, mbrl-lib fp32")
        ratios = [b[1] / a[1] for a, b in zip(each, base or [], strict=bool(base))]
        beside = f"  {statistics.median(ratios):5.2f} x mbrl-lib" if ratios else ""
        print(f"{name:28} {speed:11,.1f} {unit:23} {share:5.0%} of products{beside}", flush=True)


if __name__ == "__main__":
    main()
