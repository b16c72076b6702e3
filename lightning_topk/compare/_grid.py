"""From a comparison to its runs: tuning, choice, final runs, test."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning_topk.compare._found import FoundRuns
from lightning_topk.compare._jobs import PLAIN, Job, key_of
from lightning_topk.compare._launcher import Launcher
from lightning_topk.compare._options import option_arguments
from lightning_topk.compare._plan import Column, Comparison, adjusted_name
from lightning_topk.compare._progress import Progress
from lightning_topk.compare._run import Result, execute, is_done, read_result
from lightning_topk.compare._select import Candidate, Setting, candidates_of, choose


class Grid:
    """All runs of a comparison, and what is known of them.

    Args:
        comparison: What is compared.
        folder: Where the runs lie.
        launcher: Reads their options.
        keep: Whether weights are kept.

    Attributes:
        settings: All settings of all columns.
        results: Results by key of the run.
        failures: Messages of failed runs by key.
        chosen: What each column of the table is; None where all that it could be has failed.
        candidates: What it was chosen from.
    """

    def __init__(self, comparison: Comparison, folder: Path, launcher: Launcher, *, keep: bool = False) -> None:
        self.comparison, self.folder, self.keep = comparison, folder, keep
        self._found = FoundRuns(folder)
        self.settings = [
            self._setting(column, options, launcher) for column in comparison.columns for options in column.settings()
        ]
        self.results: dict[str, Result] = {}
        self.failures: dict[str, str] = {}
        self.candidates: dict[str, list[Candidate]] = {}
        for column in comparison.columns:
            self.candidates |= candidates_of(column, self.settings)
        self.chosen: dict[str, Candidate | None] = {}

    def _setting(self, column: Column, options: Mapping[str, Any], launcher: Launcher) -> Setting:
        args = (*self.comparison.args, *column.args, *option_arguments("grid", options), *self.comparison.last_args)
        try:
            config = launcher.resolve(args)
        except SystemExit:
            sys.stderr.write(f"at:    column `{column.name}` of the comparison\n")  # below what the parser has said
            raise
        check_schedules(column.name, options, config)
        seeds = dict.fromkeys((*self.comparison.tuning_seeds, *self.comparison.seeds))
        choice = self.comparison.checkpoint, self.comparison.select
        own = {seed: key_of({**config, "seed_everything": seed}, *choice) for seed in seeds}
        setting = Setting(column, options, config, own)
        return replace(setting, keys={seed: self._found.key_of(self._job(setting, seed)) for seed in seeds})

    def tuning_jobs(self) -> list[Job]:
        """Return the runs from which the settings are chosen; all runs of columns without a choice."""
        jobs = []
        for setting in self.settings:
            candidates = self._candidates_of(setting)
            decided = all(len(each) == 1 for each in candidates)
            single = sum(other.column is setting.column for other in self.settings) == 1
            seeds = self.comparison.seeds if single else self.comparison.tuning_seeds
            seeds = tuple(dict.fromkeys((*seeds, *(() if decided else self.comparison.tuning_seeds))))
            val = tuple(dict.fromkeys(candidate.variant for each in candidates for candidate in each))
            jobs += [self._job(setting, seed, val=val, test=val if decided else ()) for seed in seeds]
        return _merged(jobs)

    def later_runs(self) -> int:
        """Return how many runs are to be expected after those of the tuning, at most."""
        chosen_from = {setting.column.name for setting in self.settings if setting.options}
        return len(chosen_from) * len(set(self.comparison.seeds) - set(self.comparison.tuning_seeds))

    def final_jobs(self) -> list[Job]:
        """Choose, and return the runs of what was chosen, with their evaluation on the test set."""
        self.chosen = {
            name: choose(candidates, self.results, self.comparison) if len(candidates) > 1 else candidates[0]
            for name, candidates in self.candidates.items()
        }
        jobs = []
        for candidate in self.chosen.values():
            if candidate is not None:
                variant = (candidate.variant,)
                val = tuple(dict.fromkeys((PLAIN, *variant)))
                jobs += [
                    self._job(candidate.setting, seed, val=val, test=variant)
                    for seed in self.comparison.seeds
                    if candidate.setting.keys[seed] not in self.failures
                ]
        return _merged(jobs)

    def _candidates_of(self, setting: Setting) -> list[list[Candidate]]:
        names = (setting.column.name, adjusted_name(setting.column.name))
        return [self.candidates[name] for name in names if name in self.candidates]

    def _job(self, setting: Setting, seed: int, *, val: Sequence[str] = (), test: Sequence[str] = ()) -> Job:
        key = setting.keys[seed]
        return Job(
            column=setting.column.name,
            seed=seed,
            key=key,
            folder=self.folder / key,
            config={**setting.config, "seed_everything": seed},
            checkpoint=self.comparison.checkpoint,
            monitor=self.comparison.select,
            max_k=max(*self.comparison.ks, self.comparison.k),
            val=tuple(val),
            test=tuple(test),
            keep=self.keep,
        )

    def first_job(self, setting: Setting) -> Job:
        """Return the run of a setting with the first seed."""
        return self._job(setting, self.comparison.seeds[0])

    def unfinished(self, jobs: Iterable[Job]) -> list[Job]:
        """Take the results of finished runs, and return the others."""
        left = []
        for job in jobs:
            result = read_result(job.folder)
            if result is not None and is_done(job, result):
                self.results[job.key] = result
            else:
                left.append(job)
        return left

    def run(self, jobs: Sequence[Job], workers: Any, progress: Progress, title: str, *, later: int = 0) -> None:
        """Make the runs that are not finished; what fails is noted, and the others go on."""
        waiting = self.unfinished(jobs)
        for job in jobs:
            if job.key in self.results:
                progress.clock.finished(job.column, self.results[job.key]["seconds"])
        if not waiting:
            return
        # What is trained is only evaluated, which takes less time.
        trained = {job.key for job in waiting if read_result(job.folder) is not None}
        names = [f"{job.column}\0" if job.key in trained else job.column for job in waiting]
        progress.begin(title, names, later=later)
        for event in workers.run([partial(execute_task, job) for job in waiting]):
            if event.kind == "tick":
                progress.tick()
                continue
            job = waiting[event.index]
            name = f"{job.column}, seed {job.seed} ({job.key}{', test' if job.key in trained else ''})"
            if event.kind == "start":
                progress.started(event.index, names[event.index])
            elif event.kind == "progress":
                progress.moved(event.index, event.value)
            elif event.kind == "failed":
                self.failures[job.key] = event.value
                progress.ended(event.index, f"{name} failed: {event.value}", failed=True)
            else:
                self.results[job.key] = event.value
                progress.ended(event.index, name, seconds=event.seconds)


def check_schedules(name: str, options: Iterable[str], config: Mapping[str, Any]) -> None:
    """Raise for a grid over a parameter of the loss that a callback sets in every step.

    Raises:
        ValueError: There is an EpsilonScheduler for an option of the grid.
    """
    for callback in config["trainer"].get("callbacks") or []:
        if isinstance(callback, Mapping) and str(callback.get("class_path")).endswith(".EpsilonScheduler"):
            parameter = (callback.get("init_args") or {}).get("parameter", "epsilon")
            for option in options:
                if option.rpartition(".")[2] == parameter:
                    raise ValueError(
                        f"A grid should be over options that have a say. Found `{option}` in column `{name}`, while an "
                        f"EpsilonScheduler sets `{parameter}` in every step: leave it out by `trainer.callbacks: []`."
                    )


def execute_task(job: Job, launcher: Launcher, report: Any, cache: dict[str, Any]) -> Result:
    """Carry out a run in a worker."""
    return execute(job, launcher, report, cache)


def _merged(jobs: Iterable[Job]) -> list[Job]:
    """Make one of jobs for the same run."""
    found: dict[str, Job] = {}
    for job in jobs:
        other = found.get(job.key)
        if other is None:
            found[job.key] = job
        else:
            found[job.key] = replace(
                other,
                val=tuple(dict.fromkeys((*other.val, *job.val))),
                test=tuple(dict.fromkeys((*other.test, *job.test))),
            )
    return list(found.values())
