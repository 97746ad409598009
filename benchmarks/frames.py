"""Speed and memory of the world models of images: frames learned from and imagined a second, and what they take.

    OMP_NUM_THREADS=1 python benchmarks/frames.py
    OMP_NUM_THREADS=1 python benchmarks/frames.py --members 5 --batch 64 --starts 5000

Random frames at the sizes of a preset, members together: a row counts once for each member that learns from it, and
once where it is imagined. `compiled` is torch.compile of each trunk. Processor seconds of one thread, which other work
on the machine disturbs least; on a GPU wall clock. `reckoned_gb` is what a run is refused by where an update would not
fit the memory, `peak_gb` what the process has come to by then.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import torch

from mbrl_lab.dynamics import FrameModel, GridModel, ImageTrainer, Visual
from mbrl_lab.dynamics.optim import Optim
from mbrl_lab.nets.speed import keep_freed_memory
from mbrl_lab.types import EnvSpec, Step

SPECS = {
    "frames": EnvSpec((4, 84, 84), torch.uint8, 4, discrete=True, stack=4),
    "grid": EnvSpec((4, 10, 10), torch.uint8, 6, discrete=True),
}


def made(kind: str, members: int, width: int, depth: int, compiled: bool) -> Visual:
    torch.manual_seed(0)
    sizes = {"members": members, "unroll": 1, "width": width, "depth": depth, "optim": Optim(1e-3, 10.0)}
    trainer = ImageTrainer(32, 0.1, 5_000, 2, 0.01, 200, False, 0.25, None)
    model: Visual
    if kind == "frames":
        model = FrameModel(SPECS[kind], history=4, target="levels", patch=4, trainer=trainer, **sizes)  # type: ignore[arg-type]
    else:
        model = GridModel(SPECS[kind], history=2, trainer=trainer, **sizes)  # type: ignore[arg-type]
    if compiled:
        for net in model.nets:
            net.trunk = torch.compile(net.trunk)  # type: ignore[assignment]
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def rows(spec: EnvSpec, length: int, batch: int, device: torch.device) -> Step:
    """[length, batch] rows of noise, of which one pixel in a hundred changes."""
    first = torch.randint(2 if spec.stack == 1 else 256, (batch, *spec.obs_shape), dtype=torch.uint8)
    later = torch.where(torch.rand(length - 1, *first.shape) < 0.01, 1 - first, first)
    obs = torch.cat([first[None], later])
    no = torch.zeros(length, batch, dtype=torch.bool)
    action = torch.randint(spec.action_dim, (length, batch))
    return Step(action, obs, torch.zeros(length, batch), no, no).to(device)


def seconds(act: Callable[[], object], times: int) -> float:
    """Of the processor for one call, the first not counted; of the clock where a GPU works."""
    cuda = torch.cuda.is_available()
    clock = time.monotonic if cuda else time.process_time
    act()
    if cuda:
        torch.cuda.synchronize()
    begun = clock()
    for _ in range(times):
        act()
    if cuda:
        torch.cuda.synchronize()
    return (clock() - begun) / times


def peak() -> float:
    """Gigabytes that the process, or the GPU, has had at most."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--members", type=int, default=2)
    p.add_argument("--width", type=int, default=64)
    p.add_argument("--depth", type=int, default=2)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--starts", type=int, default=1_000)
    p.add_argument("--times", type=int, default=5)
    args = p.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    print("model,digits,compiled,learned_per_second,imagined_per_second,reckoned_gb,peak_gb")
    for kind, spec in SPECS.items():
        for compiled in (False, True):
            for dtype in (torch.float32, torch.bfloat16):
                model = made(kind, args.members, args.width if kind == "frames" else 32, args.depth, compiled)
                device = model.sampling_weights.device
                batch = rows(spec, model.lead + 2, args.batch, device)
                start = model.initial_state(rows(spec, model.lead + 1, args.starts, device))
                action = torch.randint(spec.action_dim, (args.starts,), device=device)
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
                    learn = seconds(lambda model=model, batch=batch: model.update(batch), args.times)  # type: ignore[misc]
                    imagining = seconds(lambda m=model, s=start, a=action: m.imagine(s, a), args.times)  # type: ignore[misc]
                digits = "bf16" if dtype == torch.bfloat16 else "fp32"
                speed = f"{args.batch * args.members / learn:.0f},{args.starts / imagining:.0f}"
                print(
                    f"{kind},{digits},{compiled},{speed},{model.bytes_needed(args.batch) / 1e9:.2f},{peak():.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
