"""A worker: gets trials from the study, runs them as processes, reports their values, and stops pruned ones."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.trial import Trial, TrialState

from mbrl_lab.config import ConfigError, check, compose_config
from mbrl_lab.config.messages import did_you_mean
from mbrl_lab.report.curves import read_metrics
from mbrl_lab.sweep.jobs import Job, Sweep
from mbrl_lab.sweep.parallel import OUTPUT, Place, Running, begin, choose_places, free_place, reason
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.lock import Lock
from mbrl_lab.tracking.signals import Signals
from mbrl_lab.tune.space import Space
from mbrl_lab.tune.study import count, end, report, under_way

PAUSE = 0.2


class Attempt(NamedTuple):
    """A trial that this worker runs and whose lock it holds."""

    trial: Trial
    running: Running
    lock: Lock


class Worker:
    """Works on a study until it has `trials` of them, as many at a time as there are places.

    A run that fails, or whose metric is never a finite number, is a failed trial, and the search continues. A trial
    whose worker was killed is resumed by another one.
    """

    def __init__(self, study: optuna.Study, space: Space, path: Path, script: Path, trials: int, workers: int) -> None:
        self.study = study
        self.space = space
        self.path = path
        self.trials = trials
        self.sweep = Sweep(path, str(script), str(Path.cwd()), {}, {})
        self.flags = () if space.config_dir is None else ("--config-dir", space.config_dir)
        cfg = compose_config(space.overrides, space.config_dir)
        self.threads = cfg.runtime.threads
        self.device = str(cfg.runtime.device)
        self.places = choose_places([self.job(0, [])], workers, 1)
        self.attempts: list[Attempt] = []
        self.reported: dict[int, int] = {}  # by trial: the last step reported to the study

    def run(self) -> None:
        """Run trials. SystemExit after a signal: by then all runs have saved, and another worker can resume them."""
        with Signals() as signals:
            try:
                while not signals.received and (self.fill() or self.attempts):
                    time.sleep(PAUSE)
                    for attempt in list(self.attempts):
                        self.check(attempt)
            finally:
                # Also after an error: a run that outlived its worker would block the trial for others.
                self.stop()
            if signals.received:
                print(f"tune      {signals.received}: the same command resumes the unfinished trials", flush=True)
                raise SystemExit(128 + signal.Signals[signals.received])

    def fill(self) -> bool:
        """Begin trials while there are places; False when none is left to begin."""
        while place := free_place(self.places, [attempt.running for attempt in self.attempts]):
            taken = self.take_over() or self.ask()
            if taken is None:
                return False
            self.begin(*taken, place)
        return True

    def take_over(self) -> tuple[Trial, Lock] | None:
        """A trial that a dead worker left unfinished."""
        mine = {attempt.trial.number for attempt in self.attempts}
        for trial in under_way(self.study):
            if trial.number not in mine and (lock := self.lock(trial)):
                print(f"tune      trial {trial.number} resumes: its worker is gone", flush=True)
                return trial, lock
        return None

    def ask(self) -> tuple[Trial, Lock] | None:
        """A new trial, if more are wanted."""
        if count(self.study) >= self.trials:
            return None
        trial = self.study.ask(dict(self.space.distributions))
        lock = self.lock(trial)
        # Another worker may have taken over this trial in the meantime.
        return (trial, lock) if lock else self.ask()

    def lock(self, trial: Trial) -> Lock | None:
        """This worker's lock on a trial, or None if another worker has it."""
        folder = self.job(trial.number, []).folder
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder / ".worker")
        return lock if lock.take() else None

    def job(self, number: int, words: list[str]) -> Job:
        return Job(self.path / "trials" / f"{number:04d}", tuple(words), self.flags, self.threads, self.device)

    def begin(self, trial: Trial, lock: Lock, place: Place) -> None:
        """Start a trial's run, or report to the study that its config is invalid."""
        words = self.space.words(trial.params)
        try:
            self.space.check_trial(trial)
            check(compose_config(words, self.space.config_dir))
        except ConfigError as error:
            self.finish(trial, lock, end(self.study, trial, None, reason=str(error)), str(error))
            return

        # A resumed trial has reported some steps already; Optuna would warn about repeated ones.
        self.reported[trial.number] = max(self.study.trials[trial.number].intermediate_values, default=-1)
        running = begin(self.sweep, self.job(trial.number, words), place)
        self.attempts.append(Attempt(trial, running, lock))

    def check(self, attempt: Attempt) -> None:
        """Report new values of a trial, and finish it if its run has exited or is pruned."""
        trial, running, lock = attempt

        # The exit code before the metrics: a run that exits in between has written all of them.
        code = running.process.poll()
        values = self.values(running.job.folder)
        pruned = any(report(trial, value, step) for step, value in values if step > self.reported[trial.number])
        last, value = values[-1] if values else (-1, None)
        self.reported[trial.number] = max(last, self.reported[trial.number])
        if code is None and not pruned:
            return

        if code is None:
            # A pruned run saves and exits, like any other that is stopped.
            running.process.terminate()
            running.process.wait()
            why = f"at step {last} of its run"
        else:
            why = self.unlogged(running.job.folder) if code == 0 else reason(code, running.job.folder / OUTPUT)
            pruned = False

        self.attempts.remove(attempt)
        self.finish(trial, lock, end(self.study, trial, None if why else value, pruned, why), why)

    def values(self, folder: Path) -> list[tuple[int, float]]:
        """Steps and finite values of the metric so far."""
        rows = read_metrics(RunFolder(folder).metrics)
        return [(int(row["step"]), row[self.space.metric]) for row in rows if row.get(self.space.metric) is not None]

    def unlogged(self, folder: Path) -> str:
        """A reason if the run never logged the metric, perhaps for a misspelled name; else empty."""
        names = {key for row in read_metrics(RunFolder(folder).metrics) for key in row}
        metric = self.space.metric
        return "" if metric in names else f"its run logged no {metric!r}{did_you_mean(metric, names)}"

    def finish(self, trial: Trial, lock: Lock, state: TrialState, why: str) -> None:
        """Release a trial, and print its result."""
        lock.release()
        value = self.study.trials[trial.number].value
        what = f"{self.space.metric} {value:.4g}" if state == TrialState.COMPLETE else why.partition("\n")[0]
        words = " ".join(f"{k}={v}" for k, v in trial.params.items())
        print(f"tune      trial {trial.number}  {words}  {state.name.lower()}  {what}".rstrip(), flush=True)

    def stop(self) -> None:
        """Let running trials save and exit; another worker can resume them."""
        for attempt in self.attempts:
            attempt.running.process.terminate()
        for attempt in self.attempts:
            attempt.running.process.wait()
            attempt.lock.release()
