"""Trains the members of a comparison.

Members that differ only in seed, step size or decay train in one compiled program; other members
train one after the other. Members with a finished run in their folder are skipped. A signal saves
the members in training, and the same command continues them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from absl import flags

from fedvlr_jax.commands.launching.faults import Interrupted, StopRequest
from fedvlr_jax.commands.members.choices import Member
from fedvlr_jax.commands.members.folders import (
    begin_directory,
    check_member,
    checkpoints_of,
    complete,
    leave_out,
    saved_round,
)
from fedvlr_jax.commands.members.loaded import Loaded
from fedvlr_jax.commands.members.say import say
from fedvlr_jax.commands.one_run.finished import write_results
from fedvlr_jax.commands.one_run.privacy_accounts import Accounts, kept_accounts
from fedvlr_jax.commands.one_run.runs import describe
from fedvlr_jax.commands.one_run.saving import load_run, save_run
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.baselines import Evaluate, evaluate_as_config
from fedvlr_jax.memory import check_fits, memory_budget
from fedvlr_jax.report import Progress
from fedvlr_jax.selection import SLICES
from fedvlr_jax.simulation import Simulation, check_setup, make_simulation
from fedvlr_jax.training import RunState, Timing
from fedvlr_jax.training.ensemble import (
    ENDED,
    NOT_FINITE,
    Hooks,
    Programs,
    members_at_once,
    members_in_memory,
    train_members,
)
from fedvlr_jax.training.summary import BaselineSummary, summarise_run

FLAGS = flags.FLAGS


# The baselines for the config of a run.
Baselines = Callable[[Config], BaselineSummary]


class Watch(Protocol):
    """Called with members and their runs after each evaluation.

    It returns the numbers of the members that end there; they leave no results.
    """

    def __call__(
        self, members: Sequence[Member], runs: Sequence[RunState], /
    ) -> Collection[int]: ...


def _no_watch(members: Sequence[Member], runs: Sequence[RunState], /) -> Collection[int]:
    return ()


class MemberOptions(NamedTuple):
    """How a command trains its members.

    Attributes:
      baselines: evaluates the baselines of a finished member.
      stop: whether a signal has arrived.
      watch: may end members after an evaluation.
      keep: a finished member keeps a checkpoint.
    """

    baselines: Baselines
    stop: StopRequest
    watch: Watch = _no_watch
    keep: bool = False


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
      InputError: a folder contains another run, a data set lacks a validation part that `selects`
        needs, or a member has choices that do not fit. Nothing was trained.
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
    # Otherwise a member that is refused would end the command after others have trained.
    for group in waiting.values():
        _check_setup(group[0], loaded.dataset(group[0].config))
    with StopRequest() as stop:
        for group in waiting.values():
            simulation = make_simulation(group[0].config, loaded.dataset(group[0].config))
            options = MemberOptions(loaded.baselines, stop, keep=keep)
            train_group(group, Programs(simulation), options)
    return loaded.datasets


def _check_setup(member: Member, dataset: Dataset) -> None:
    try:
        check_setup(member.config, dataset)
    except InputError as error:
        raise InputError(f"{member.label}: {error.line}") from None


def _is_complete(member: Member, loaded: Loaded) -> bool:
    """Whether the member has finished. Adds missing results to its folder, as the flags ask."""
    config = member.config
    return not config.run.overwrite and complete(
        member.directory,
        config.flat,
        functools.partial(describe, config, loaded.dataset(config)),
        functools.partial(loaded.baselines, config),
    )


def train_group(members: Sequence[Member], programs: Programs, options: MemberOptions) -> None:
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
            train_together(part, programs.side_by_side(at_once), after, options)


def train_together(
    members: Sequence[Member], programs: Programs, saved_round: int | None, options: MemberOptions
) -> None:
    """Trains members of one program, and writes their run directories.

    Args:
      programs: of their simulation.
      saved_round: all members continue after this round; None: they start.

    Raises:
      Interrupted: a signal arrived; the members are saved.
    """
    simulation, at_once = programs.simulation, programs.at_once
    config = simulation.config
    size = f"{at_once} at once, {simulation.state_bytes / 1e6:.0f} MB each"
    after = "" if saved_round is None else f", continued after round {saved_round}"
    say(f"{config.model.backbone} + {config.model.fusion}: {len(members)} members, {size}{after}")
    runs = None
    if saved_round is not None:
        runs = [
            _on_host(load_run(simulation, checkpoints_of(m.directory), saved_round))
            for m in members
        ]
    accounts = [
        Accounts.of_member(
            simulation, m.directory, replaces=saved_round is None and m.config.run.overwrite
        )
        for m in members
    ]
    with (
        Progress(config.federation.rounds, selection=simulation.selection) as progress,
        kept_accounts(accounts) as before_rounds,
    ):
        hooks = Hooks(
            on_evaluation=functools.partial(_show, progress),
            ends=functools.partial(options.watch, members),
            leave=lambda: options.stop.asked,
            before_rounds=before_rounds,
        )
        seeds = [m.config.run.seed for m in members]
        rates = [m.config.federation.rates for m in members]
        runs, timing = train_members(programs, seeds, rates, runs=runs, hooks=hooks)
    for member, run in zip(members, runs, strict=True):
        if not run.stopped:
            _save(member, run, simulation)
    for member, run, account in zip(members, runs, accounts, strict=True):
        _write_if_finished(member, run, simulation, timing, account.stated, options)
    if options.stop.asked:
        raise Interrupted(f"stopped by {options.stop.name}; the same command continues")


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


def _save(member: Member, run: RunState, simulation: Simulation) -> None:
    """Saves a member that has not ended."""
    begin_directory(member, run, simulation.dataset)
    checkpoints = checkpoints_of(member.directory)
    save_run(simulation, checkpoints, run, member.config.flat)
    checkpoints.wait()


def _write_if_finished(
    member: Member,
    run: RunState,
    simulation: Simulation,
    timing: Timing,
    stated: dict[str, Any] | None,
    options: MemberOptions,
) -> None:
    """Writes the results of a finished member. Removes its checkpoints, unless `options.keep`.

    Args:
      stated: its privacy statement; None without --privacy.
    """
    if run.stopped in ("", ENDED):
        return
    if run.stopped == NOT_FINITE:
        leave_out(member.directory, f"stopped at {NOT_FINITE}")
        return
    config = member.config
    summary, users = summarise_run(
        simulation, run, timing, seed=config.run.seed, baselines=options.baselines(config)
    )
    if stated is not None:
        summary["privacy"] = stated
    write_results(begin_directory(member, run, simulation.dataset), summary, users)
    checkpoints = checkpoints_of(member.directory)
    checkpoints.clear()
    if options.keep:
        save_run(simulation, checkpoints, run, config.flat)
        checkpoints.wait()
