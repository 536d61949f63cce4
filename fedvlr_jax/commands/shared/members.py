"""Trains the members of a comparison: seeds and flag values, each with a run directory.

Members that differ only in seed, step size or decay train in one compiled program; other members
train one after the other. Members with a finished run in their folder are skipped. A signal saves
the members in training, and the same command continues them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from absl import flags
from rich.console import Console

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands.shared.faults import Interrupted, StopRequest
from fedvlr_jax.commands.shared.finished import (
    Results,
    complete_results,
    read_results,
    validation,
    write_results,
)
from fedvlr_jax.commands.shared.launch import note_unused
from fedvlr_jax.commands.shared.loaded import Loaded
from fedvlr_jax.commands.shared.member_flags import OF_ONE_RUN
from fedvlr_jax.commands.shared.private import Accounts, kept_accounts
from fedvlr_jax.commands.shared.runs import check_same, describe
from fedvlr_jax.commands.shared.saving import load_run, save_run
from fedvlr_jax.config import ALIASES, RESUMABLE_FLAGS, Config, DataConfig
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.ensemble import (
    ENDED,
    NOT_FINITE,
    Programs,
    members_at_once,
    members_in_memory,
    train_members,
)
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.baselines import Evaluate, evaluate_as_config
from fedvlr_jax.memory import check_fits, memory_budget
from fedvlr_jax.report import Progress, RunDirectory
from fedvlr_jax.selection import SLICES
from fedvlr_jax.simulation import Simulation, make_simulation
from fedvlr_jax.summary import BaselineSummary, summarise_run
from fedvlr_jax.training import RunState, Timing
from fedvlr_jax.types import Rates

FLAGS = flags.FLAGS

# (flag name, value) pairs, in the order of the command line.
Choice = tuple[tuple[str, Any], ...]
# The baselines for the config of a run.
Baselines = Callable[[Config], BaselineSummary]

# A sweep compares user by user, so all its members need the same users and targets.
OF_USERS = {f.name for f in dataclasses.fields(DataConfig)} | {"protocol"}
OF_USERS -= {"recency", "permute_features"}


def label_of(choice: Choice) -> str:
    return " ".join(f"{name}={value}" for name, value in choice) or "default"


def folder_of(choice: Choice) -> str:
    return "-".join(f"{name}={value}".replace("/", "_") for name, value in choice) or "default"


@dataclasses.dataclass(frozen=True)
class Member:
    """One run. `choice` has the flags that differ from the base, by name."""

    choice: Choice
    config: Config

    @property
    def label(self) -> str:
        return label_of(self.choice)

    @property
    def directory(self) -> Path:
        return Path(self.config.run.workdir)

    @property
    def program(self) -> Config:
        """Equal for members that one compiled program can train."""
        plain: dict[str, Any] = dict.fromkeys(Rates._fields, 0.0)
        federation = dataclasses.replace(self.config.federation, **plain)
        # The noise of private exchanges depends on the seed, and belongs to the program.
        drawn = self.config.init.init != "random" and self.config.privacy.privacy != "none"
        seed = self.config.run.seed if drawn else 0
        run = dataclasses.replace(self.config.run, seed=seed, workdir="")
        return dataclasses.replace(self.config, federation=federation, run=run)


def parse_seeds(text: str) -> list[int]:
    """[0, 1, 2] of "0,1,2"."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) >= 2**31:
        raise InputError(f"--seeds={text}: give different whole numbers, e.g. 0,1,2,3,4")
    return seeds


def parse_over(text: str) -> list[Choice]:
    """[((flag, value),), ...] of "flag=value,value"; of "a:b=1:x,2:y" flags that go together."""
    left, found, right = text.partition("=")
    names, defaults = [ALIASES.get(n, n) for n in left.split(":")], Config().flat
    for name in names:
        if not found or name not in defaults or name in OF_ONE_RUN | {"workdir", "overwrite"}:
            raise InputError(f"--over={text}: no flag that can vary; give e.g. fusion=none,mlp")
        if name in OF_USERS:
            raise InputError(
                f"--over={text}: members need the same users; give one --{name}, and run one sweep "
                "per value"
            )
    if "select" in names:
        raise InputError(
            f"--over={text}: one validation metric chooses among all members; give one --select, "
            "and run one sweep per value"
        )
    rows = [value.split(":") for value in right.split(";" if ";" in right else ",")]
    wrong = [row for row in rows if len(row) != len(names)]
    if wrong:
        raise InputError(
            f"--over={text}: found {':'.join(wrong[0])!r} for {left}; give one value per flag"
        )
    return [
        tuple(
            (name, parse_value(text, name, value)) for name, value in zip(names, row, strict=True)
        )
        for row in rows
    ]


def parse_value(text: str, name: str, value: str) -> Any:
    """`value` in the type of the flag `name`. `text` is the --over for the error message."""
    kind = type(Config().flat[name])
    try:
        return {"true": True, "false": False}[value] if kind is bool else kind(value)
    except (ValueError, KeyError):
        raise InputError(f"--over={text}: {name} takes {kind.__name__} values") from None


def make_member(base: Config, choice: Choice, seed: int) -> Member:
    """`base` with the values of `choice`, in its own folder inside the base's."""
    workdir = str(Path(base.workdir) / folder_of(choice) / f"seed{seed}")
    config = base.changed(**dict(choice), seed=seed, workdir=workdir)
    return Member(choice, config.resolved)


def make_members(base: Config, over: Sequence[str], seeds: Sequence[int]) -> list[Member]:
    """All combinations, seeds innermost."""
    grid = itertools.product(*(parse_over(text) for text in over))
    choices = [tuple(itertools.chain(*parts)) for parts in grid]
    for choice in choices:
        if choices.count(choice) > 1:
            raise InputError(f"--over: {label_of(choice)} occurs twice; give each value once")
    base = with_common_init(base, choices)
    return [make_member(base, choice, seed) for choice in choices for seed in seeds]


def with_common_init(base: Config, choices: Sequence[Choice]) -> Config:
    """`base` with --init=random where --init=auto would give some choices a closed form and others
    not: the initialization would then be a second difference between them."""
    if base.init.init != "auto" or "init" in {name for choice in choices for name, _ in choice}:
        return base
    every = {base.changed(**dict(choice)).resolved.init.init for choice in choices}
    if len(every) < 2:
        return base
    _say("--init=auto: random for all, because not every choice supports ease")
    return dataclasses.replace(base, init=dataclasses.replace(base.init, init="random"))


def note_unused_by(members: Sequence[Member], used: Collection[str] = ()) -> None:
    """Prints one line for each given flag that has no effect on any member.

    Args:
      used: flags that the command itself uses.
    """
    varied = {name for member in members for name, _ in member.choice}
    note_unused(*dict.fromkeys(m.config for m in members), varied=varied, used=used)


def check_member(directory: Path, flags: Mapping[str, Any], fingerprint: str) -> None:
    """Checks that the directory contains no run, or the run of these flags and data.

    Raises:
      InputError: it contains another run, finished or not. The message names the differences.
    """
    if not (directory / "config.json").exists():
        return
    saved = RunDirectory.open(directory).read_config()
    # A finished member is not continued, so its --rounds and --patience must be equal too.
    check_same(
        str(directory),
        (saved["flags"], saved["dataset"]["fingerprint"]),
        (flags, fingerprint),
        RESUMABLE_FLAGS - {"rounds", "patience"},
    )


def finished_results(directory: Path) -> Results | None:
    """The results of a member; None if it has not finished or a file is damaged."""
    if not (directory / "config.json").exists():
        return None
    note = lambda line: _say(f"{directory}: {line}; trains it again")
    return read_results(RunDirectory.open(directory), note)


def complete(
    directory: Path,
    flags: Mapping[str, Any],
    describe: Callable[[], Mapping[str, Any]],
    baselines: Callable[[], BaselineSummary],
) -> bool:
    """Whether the member has finished. Adds the results that the flags ask for and it lacks."""
    results = finished_results(directory)
    if results is not None:
        complete_results(RunDirectory.open(directory), results, flags, describe, baselines)
    return results is not None


def _say(line: str) -> None:
    Console().print(line, markup=False, highlight=False, soft_wrap=True)


def leave_out(directory: Path, why: str) -> None:
    """Removes the summary of a failed run, which may be that of an earlier run, and says why."""
    (directory / "summary.json").unlink(missing_ok=True)
    _say(f"{directory}: {why}; left out of the comparison")


def train_waiting(
    members: Sequence[Member],
    *,
    selects: bool = True,
    keep: bool = False,
    evaluate: Evaluate = evaluate_as_config,
) -> dict[Any, Dataset]:
    """Trains the unfinished members. Returns their data sets, by `config.data`.

    Args:
      selects: the command selects by validation, so every data set needs a validation part.
      keep: each finished member keeps a checkpoint; see `keep_best_model`.
      evaluate: evaluates the baselines.

    Raises:
      InputError: a folder contains another run, or a data set lacks a validation part that
        `selects` needs. Nothing was trained.
      Interrupted: a signal stopped the command; the trained members are saved.
    """
    loaded = Loaded(evaluate)
    for member in members:
        dataset = loaded.dataset(member.config)
        if selects and not len(dataset.valid):
            raise InputError(
                f"{dataset.name}: has no validation interaction, which selection needs; train "
                "each setting with fedvlr train"
            )
    # Check all members before writing anything.
    for member in members:
        if not member.config.run.overwrite:
            fingerprint = loaded.dataset(member.config).fingerprint
            check_member(member.directory, member.config.flat, fingerprint)
    waiting: dict[Config, list[Member]] = {}
    for member in members:
        if not _is_complete(member, loaded):
            waiting.setdefault(member.program, []).append(member)
    with StopRequest() as stop:
        for group in waiting.values():
            simulation = make_simulation(group[0].config, loaded.dataset(group[0].config))
            train_group(group, Programs(simulation), loaded.baselines, stop, keep=keep)
    return loaded.datasets


def _is_complete(member: Member, loaded: Loaded) -> bool:
    """Whether the member has finished. Adds missing results to its folder, as the flags ask."""
    config = member.config
    return not config.run.overwrite and complete(
        member.directory,
        config.flat,
        functools.partial(describe, config, loaded.dataset(config)),
        functools.partial(loaded.baselines, config),
    )


def checkpoints_of(folder: Path) -> Checkpoints:
    """The checkpoints of a member that a signal stopped, or whose model is kept."""
    return Checkpoints(folder / "checkpoints", keep=1)


def saved_round(member: Member) -> int | None:
    """The round after which a signal stopped the member; None if it starts from the beginning."""
    if member.config.run.overwrite or not (member.directory / "config.json").exists():
        return None
    checkpoints = checkpoints_of(member.directory)
    newest = checkpoints.newest(_say)
    if newest is None:
        return None
    # A checkpoint of fedvlr train may lie between two evaluations; it cannot be used here.
    meta = checkpoints.read_meta(newest)
    return newest if meta["since"] is None and meta["before_end"] is None else None


class Watch(Protocol):
    """Called with members and their runs after each evaluation; returns the numbers of those
    that end there. They leave no results."""

    def __call__(
        self, members: Sequence[Member], runs: Sequence[RunState], /
    ) -> Collection[int]: ...


def _no_watch(members: Sequence[Member], runs: Sequence[RunState], /) -> Collection[int]:
    return ()


def train_group(
    members: Sequence[Member],
    programs: Programs,
    baselines: Baselines,
    stop: StopRequest,
    watch: Watch = _no_watch,
    *,
    keep: bool = False,
) -> None:
    """Trains members of one program, as many together as fit in memory.

    Args, Raises: as `train_together`, without the number of members side by side.
    """
    simulation = programs.simulation
    alone = sum(check_fits(simulation, saves=False).values())
    left = memory_budget(simulation.config).size - alone
    size = members_in_memory(simulation, left)
    by_round: dict[int | None, list[Member]] = {}
    for member in members:
        by_round.setdefault(saved_round(member), []).append(member)
    for after, group in by_round.items():
        for first in range(0, len(group), size):
            part = group[first : first + size]
            at_once = FLAGS.members_at_once or members_at_once(simulation, len(part), left)
            train_together(
                part, programs.side_by_side(at_once), after, baselines, stop, watch, keep=keep
            )


def train_together(
    members: Sequence[Member],
    programs: Programs,
    saved_round: int | None,
    baselines: Baselines,
    stop: StopRequest,
    watch: Watch = _no_watch,
    *,
    keep: bool = False,
) -> None:
    """Trains members of one program, and writes their run directories.

    Args:
      programs: of their simulation.
      saved_round: all members continue after this round; None: they start.
      keep: a finished member keeps a checkpoint.

    Raises:
      Interrupted: a signal arrived; the members are saved.
    """
    simulation, at_once = programs.simulation, programs.at_once
    config = simulation.config
    size = f"{at_once} at once, {simulation.state_bytes / 1e6:.0f} MB each"
    after = "" if saved_round is None else f", continued after round {saved_round}"
    _say(f"{config.model.backbone} + {config.model.fusion}: {len(members)} members, {size}{after}")
    runs = None
    if saved_round is not None:
        runs = [
            _on_host(load_run(simulation, checkpoints_of(m.directory), saved_round))
            for m in members
        ]
    accounts = [
        Accounts.of_member(
            simulation, m.directory, anew=saved_round is None and m.config.run.overwrite
        )
        for m in members
    ]
    with (
        Progress(config.federation.rounds, selection=simulation.selection) as progress,
        kept_accounts(accounts) as before_rounds,
    ):
        runs, timing = train_members(
            simulation,
            [m.config.run.seed for m in members],
            [m.config.federation.rates for m in members],
            runs=runs,
            programs=programs,
            on_evaluation=functools.partial(_show, progress),
            ends=functools.partial(watch, members),
            leave=lambda: stop.asked,
            before_rounds=before_rounds,
        )
    for member, run in zip(members, runs, strict=True):
        if not run.stopped:
            _save(member, run, simulation)
    stated = [account.stated for account in accounts]
    _write_finished(members, runs, simulation, timing, baselines, keep, stated)
    if stop.asked:
        raise Interrupted(f"stopped by {stop.name}; the same command continues")


def _on_host(run: RunState) -> RunState:
    state, best_state = jax.device_get((run.state, run.best_state))
    return run._replace(state=state, best_state=best_state)


def _show(progress: Progress, runs: Sequence[RunState], rounds_per_s: float) -> None:
    """Shows one line: the means over the members with an evaluation."""
    entries = [run.evaluations[-1] for run in runs if run.evaluations]
    if entries:
        mean = _mean_validation([entry["valid"] for entry in entries])
        losses = [e["loss"] for e in entries if e["loss"] is not None]
        loss = float(np.mean(losses)) if losses else None
        newest = max(entry["round"] for entry in entries)
        progress.update(newest, loss, mean, None, rounds_per_s)


def _mean_validation(averages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over members of HR@50 and NDCG@50, for each slice that all members have."""
    names = ("hr@50", "ndcg@50")
    of = lambda parts: {n: float(np.mean([p.get(n, 0.0) for p in parts])) for n in names}
    slices = [name for name in SLICES if all(name in each for each in averages)]
    return of(averages) | {name: of([each[name] for each in averages]) for name in slices}


def begin_directory(member: Member, run: RunState, dataset: Dataset) -> RunDirectory:
    """Creates the member's folder with config.json and metrics.jsonl, without a checkpoint.

    Its privacy.json and ledger.json stay: they are written while it trains.
    """
    directory = RunDirectory.create(member.directory, overwrite=True, keep_private=True)
    directory.write_config(describe(member.config, dataset))
    directory.write_metrics(run.evaluations)
    return directory


def _save(member: Member, run: RunState, simulation: Simulation) -> None:
    """Saves a member that has not ended."""
    begin_directory(member, run, simulation.dataset)
    checkpoints = checkpoints_of(member.directory)
    save_run(simulation, checkpoints, run, member.config.flat)
    checkpoints.wait()


def _write_finished(
    members: Sequence[Member],
    runs: Sequence[RunState],
    simulation: Simulation,
    timing: Timing,
    baselines: Baselines,
    keep: bool,
    stated: Sequence[dict[str, Any] | None],
) -> None:
    """Writes the results of the finished members. Removes their checkpoints, unless `keep`.

    Args:
      stated: the privacy statement of each member; None without --privacy.
    """
    for member, run, privacy in zip(members, runs, stated, strict=True):
        if run.stopped in ("", ENDED):
            continue
        if run.stopped == NOT_FINITE:
            leave_out(member.directory, f"stopped at {NOT_FINITE}")
            continue
        config = member.config
        found = baselines(config)
        summary, users = summarise_run(
            simulation, run, timing, seed=config.run.seed, baselines=found
        )
        if privacy is not None:
            summary["privacy"] = privacy
        write_results(begin_directory(member, run, simulation.dataset), summary, users)
        checkpoints = checkpoints_of(member.directory)
        checkpoints.clear()
        if keep:
            save_run(simulation, checkpoints, run, config.flat)
            checkpoints.wait()


def keep_best_model(candidates: Sequence[Path], folders: Sequence[Path]) -> str:
    """Keeps one checkpoint, that of the candidate with the highest validation value.

    Those of the other `folders` are removed. Says where it is and what reads it; a run that
    finished before --keep_best_model was given has none.
    """
    best = max(candidates, key=lambda folder: validation_of(folder) or -1.0)
    for folder in folders:
        if folder != best and (folder / "checkpoints").exists():
            checkpoints_of(folder).clear()
    if not checkpoints_of(best).rounds():
        return f"{best}: finished without --keep_best_model; its command trains it again"
    return f"best model: {best}; fedvlr evaluate --workdir={best} --export=FILE reads it"


class Run(Protocol):
    """The attributes of a run, federated or centralized, that `tuned` uses."""

    @property
    def choice(self) -> Choice: ...
    @property
    def directory(self) -> Path: ...


AnyRun = TypeVar("AnyRun", bound=Run)


def tuned(
    choices: Sequence[Choice],
    seeds: Sequence[int],
    make: Callable[[Choice, int], AnyRun],
    train: Callable[[list[AnyRun]], Any],
) -> tuple[list[AnyRun], list[dict[str, Any]]]:
    """Trains every choice with the first seed, and the best choice with the other seeds too.

    The best choice has the highest validation value of --select. Test values are not used.

    Args:
      make: makes the run of a choice and a seed.
      train: trains the unfinished ones of the given runs.

    Returns:
      (the runs of the best choice, one per seed; the tried settings, each as
      {"choice": label, "valid": value, None if it diverged}).

    Raises:
      InputError: every choice diverged.
    """
    first = [make(choice, seeds[0]) for choice in choices]
    train(first)
    reached = [validation_of(run.directory) for run in first]
    tried = [
        {"choice": label_of(run.choice), "valid": value}
        for run, value in zip(first, reached, strict=True)
    ]
    # A diverged run is worse than a run with validation value 0.
    values = [-1.0 if value is None else value for value in reached]
    best = values.index(max(values))
    if reached[best] is None:
        raise InputError(
            f"{first[best].directory}: all choices diverged; give smaller learning rates"
        )
    others = [make(choices[best], seed) for seed in seeds[1:]]
    train(others)
    return [first[best], *others], tried


def validation_of(directory: Path) -> float | None:
    """The validation value that a finished run was selected by, in percent; else None."""
    if not (directory / "summary.json").exists():
        return None
    return validation(RunDirectory.open(directory).read_summary())
