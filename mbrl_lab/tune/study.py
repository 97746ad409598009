"""The study: trials in a journal that any number of workers share, and the best one as a preset."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
from omegaconf import OmegaConf
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from mbrl_lab.config import CONF, ConfigError, conf_folders
from mbrl_lab.config.composition import choices_of
from mbrl_lab.config.presets import PARTS
from mbrl_lab.tracking.atomic import write_text
from mbrl_lab.tune.space import Space

JOURNAL = "study.journal"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def open_study(path: Path, space: Space, seed: int | None = None) -> optuna.Study:
    """The study in a folder, created if there is none. ConfigError if it searches another space."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        # A file that is only appended to also works on network disks, unlike SQLite.
        storage=JournalStorage(JournalFileBackend(str(path / JOURNAL))),
        sampler=optuna.samplers.TPESampler(n_startup_trials=space.startup, constant_liar=True, seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=space.startup),
        study_name=space.name,
        direction="maximize",
        load_if_exists=True,
    )

    # Trials of another space would mislead the sampler.
    here, before = space.describe(), study.user_attrs.get("space")
    if before is None:
        study.set_user_attr("space", here)
    elif before != here:
        key = next(k for k in {**before, **here} if before.get(k) != here.get(k))
        what = f"the study in {path} searches another space: {key} was {before.get(key)}, not {here.get(key)}"
        raise ConfigError(f"{what}; choose another --study")
    return study


def count(study: optuna.Study) -> int:
    """Trials that are finished or running."""
    return len(study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING)))


def under_way(study: optuna.Study) -> list[Trial]:
    """Trials that a worker began and did not finish; it may still be running them."""
    return [Trial(study, t._trial_id) for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]


def report(trial: Trial, value: float, step: int) -> bool:
    """Report a value to the study; whether the trial should be pruned. Values that are not finite are left out."""
    if not math.isfinite(value):
        return False
    trial.report(value, step)
    return bool(trial.should_prune())


def end(study: optuna.Study, trial: Trial, value: float | None, pruned: bool = False, reason: str = "") -> TrialState:
    """Report a trial's result to the study; one without a finite value has failed."""
    if pruned:
        state = TrialState.PRUNED
    else:
        state = TrialState.COMPLETE if value is not None and math.isfinite(value) else TrialState.FAIL
    # Optuna itself stores no reason.
    if state == TrialState.FAIL:
        trial.set_user_attr("reason", reason or f"no finite value of the metric: {value}")
    study.tell(trial, value if state == TrialState.COMPLETE else None, state)
    return state


def best(study: optuna.Study) -> FrozenTrial | None:
    """The trial of the largest value, if one was completed."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(done, key=lambda t: t.value if t.value is not None else -math.inf, default=None)


def write_preset(study: optuna.Study, space: Space, path: Path) -> Path | None:
    """The best trial as a preset's file, on top of the preset that its runs had; None if none was completed."""
    found = best(study)
    if found is None:
        return None
    space.check_trial(found)

    # Values found for a part go to that part's section, so that another part does not get them.
    cfg = OmegaConf.create()
    chosen = choices_of(space.overrides, conf_folders(space.config_dir))
    for key, value in found.params.items():
        group = key.partition(".")[0]
        section = cfg
        if group in PARTS:
            name = f"{group}={chosen[group]}"
            cfg.setdefault(name, {})
            section = cfg[name]
        OmegaConf.update(section, key, OmegaConf.create(value) if _is_nested(value) else value)

    finished = len(study.get_trials(deepcopy=False, states=FINISHED))
    result = f"{space.metric} {found.value:.6g} in trial {found.number} of {finished}"

    lines = ["# @package _global_", f"# Found by scripts/tune.py {space.name}: {result}."]
    lines += [f"defaults:\n  - {name}\n  - _self_" for name in base_preset(space)]
    write_text(path, "\n".join([*lines, OmegaConf.to_yaml(cfg)]))
    return path


def base_preset(space: Space) -> list[str]:
    """The name of the preset that a trial's overrides choose, if there is such a file."""
    given = {"algo": "mpc", "env": "cartpole"} | dict(o.split("=", 1) for o in space.overrides if "=" in o)
    name = given.get("preset", f"{given['algo']}_{given['env']}")
    return [name] if (CONF / "preset" / f"{name}.yaml").is_file() else []


def _is_nested(value: object) -> bool:
    return isinstance(value, str) and value.lstrip()[:1] in ("[", "{")
