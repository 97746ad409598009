"""The console command: mbrl-lab COMMAND ..., or python -m mbrl_lab.cli COMMAND ..."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

COMMANDS = {
    "train": "train, e.g. algo=mpc env=cartpole, or resume a run",
    "evaluate": "play whole episodes with a run's weights",
    "compare": "train several algorithms with equal seeds, or use existing runs, and draw them in one figure",
    "report": "show runs, their statistics, videos and diagnostics in one HTML file",
    "paper": "write a draft about runs as Markdown and LaTeX, whose numbers and figures come from the runs",
    "export": "write a run's policy as a file that does not need this package, by torch.export and as ONNX",
    "publish": "put a run's agent on the Hugging Face Hub, or into a folder: weights, config, card, results",
    "play": "play in a run's learned model by keyboard",
    "data": "export the steps in a run's replay as recorded episodes, .npz or Minari; replay.init begins with them",
    "sweep": "show the runs of a sweep, start some again, collect results",
    "tune": "search for hyperparameters",
    "doctor": "examine this machine, or the parts of a job",
}


def load(name: str) -> Callable[..., Any]:
    """The function of a command. Ctrl-C while torch is imported, which takes seconds, exits with 130, quietly."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # elsewhere Ctrl-C is ignored, or somebody's own
        # No exception: a library that is being imported may catch it, and go on.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    try:
        return import_module(f"mbrl_lab.cli.{name}").main
    finally:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)


def main() -> int:
    """Call the command that the first argument names, with the other arguments."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: mbrl-lab COMMAND ...\n")
        print("\n".join(f"  {command:10}{what}" for command, what in COMMANDS.items()))
        print("\nmbrl-lab COMMAND --help shows the options of each.")
        return 0
    if name not in COMMANDS:
        print(f"error: mbrl-lab has no command {name!r}; it has {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    # Imported only now: each command loads libraries that the others do not need. Hydra reads sys.argv.
    sys.argv = [f"mbrl-lab {name}", *rest]
    return load(name)(rest) or 0


if __name__ == "__main__":
    raise SystemExit(main())
