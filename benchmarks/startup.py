"""What the time from `python scripts/train.py` to the first step is made of: wall and processor seconds of each part.

python benchmarks/startup.py --repeat 3      (the least of each; on a shared machine processor seconds say more)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

PARTS = """
import json, time, tempfile
marks = [("interpreter", time.perf_counter(), time.process_time())]
def mark(name):
    marks.append((name, time.perf_counter(), time.process_time()))
import torch
mark("import torch")
import hydra
mark("import hydra")
import gymnasium
mark("import gymnasium")
import mbrl_lab.app
mark("import mbrl_lab")
from mbrl_lab.config import compose_config, check
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.settings import plain
from omegaconf import OmegaConf
cfg = compose_config(WORDS)
mark("compose the config")
check(cfg)
mark("check it")
with tempfile.TemporaryDirectory() as place:
    folder = RunFolder(place)
    runner = mbrl_lab.app.build_runner(cfg, folder)
    runner.algo.allocate_memory()
    mark("build the parts")
    folder.open(plain(OmegaConf.to_container(cfg, resolve=True)), [])
    mark("open the folder, with git and packages noted")
    with runner.tracker:
        runner.reset()
        runner.advance()
    mark("first step")
    runner.envs.close()
rows = []
before = marks[0][1], 0.0
for name, wall, cpu in marks:
    rows.append([name, wall - before[0], cpu - before[1]])
    before = wall, cpu
print(json.dumps(rows))
"""


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("words", nargs="*", default=["debug=smoke"], help="settings of the run")
    args = p.parse_intermixed_args()
    code = PARTS.replace("WORDS", repr(args.words))
    seen = [
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(args.repeat)
    ]
    parts = [(name, min(s[k][1] for s in seen), min(s[k][2] for s in seen)) for k, (name, *_) in enumerate(seen[0])]
    for name, wall, cpu in [*parts, ("all", sum(p[1] for p in parts), sum(p[2] for p in parts))]:
        print(f"{name:46} {wall:6.2f} s  {cpu:6.2f} s of a processor")


if __name__ == "__main__":
    main()
