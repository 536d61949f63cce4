"""Opens the run directory of --workdir: for a new run, or for the run that it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands.launching.processes import is_first
from fedvlr_jax.commands.one_run.finished import Results
from fedvlr_jax.commands.one_run.runs import check_same
from fedvlr_jax.commands.one_run.saving import load_run
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.simulation import Simulation
from fedvlr_jax.training import RunState, position, taken_up


def open_run(simulation: Simulation) -> tuple[RunDirectory, Checkpoints, bool]:
    """The run directory, its checkpoints, and whether they hold a run to resume.

    Raises:
      InputError: the directory holds a run with other flags or data, or checkpoints without a
        config.json.
    """
    config = simulation.config
    path = Path(config.workdir)
    keep, keep_best = config.run.keep_checkpoints, config.run.keep_best
    checkpoints = Checkpoints(path / "checkpoints", keep=keep, keep_best=keep_best)
    known = (path / "config.json").exists()
    if checkpoints.rounds() and not (known or config.run.overwrite):
        raise InputError(
            f"--workdir={path}: holds checkpoints but no config.json, so their run is unknown; "
            "give another directory, or --overwrite to remove them"
        )
    held = known and not config.run.overwrite
    if not held or config.run.resume == "never":
        directory = RunDirectory.create(path, overwrite=config.run.overwrite)
        if is_first():
            checkpoints.clear()
        return directory, checkpoints, False
    directory = RunDirectory.open(path)
    saved = directory.read_config()
    fingerprint = saved.get("dataset", {}).get("fingerprint")
    now = config.flat, simulation.dataset.fingerprint
    check_same(f"--workdir={path}", (saved["flags"], fingerprint), now)
    return directory, checkpoints, True


def stopped_at(config: Config, results: Results) -> str:
    """Why the finished run needs no more rounds under the given flags; "" if it needs more.

    Raises:
      InputError: the run has more rounds than the flags allow.
    """
    metrics, rounds_run = results.metrics, results.summary.get("rounds_run")
    if not metrics or metrics[-1]["round"] != rounds_run:
        return ""  # The files are not of the same run: only a checkpoint can tell.
    return position(config, metrics, rounds_run)


def resume(
    simulation: Simulation,
    directory: RunDirectory,
    checkpoints: Checkpoints,
    note: Callable[[str], None],
) -> RunState | None:
    """Loads the run from the newest whole checkpoint. None: there is none, so the run begins.

    Raises:
      InputError: the checkpoint has other flags or data, or more rounds than the flags allow; or
        no checkpoint is whole, and the run has finished or --resume=must.
    """
    config = simulation.config
    newest = checkpoints.newest(note)
    if newest is None:
        if config.run.resume == "must":
            raise InputError(f"--resume=must: {checkpoints.directory} holds no whole checkpoint")
        if directory.has_results():
            raise InputError(
                f"--workdir={config.workdir}: its run has finished and has no whole checkpoint, so "
                "it cannot continue; give another directory, or --overwrite to train again"
            )
        found = "is whole" if checkpoints.rounds() else "was saved"
        note(f"no checkpoint {found}: the run starts from the beginning")
        return None
    meta = checkpoints.read_meta(newest)
    now = config.flat, simulation.dataset.fingerprint
    check_same(f"--workdir={config.workdir}", (meta["flags"], meta["fingerprint"]), now)
    return taken_up(config, load_run(simulation, checkpoints, newest))
