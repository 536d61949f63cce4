"""The bytes that a run writes, estimated before it begins."""

from __future__ import annotations

from typing import NamedTuple

from fedvlr_jax import trees
from fedvlr_jax.simulation import Simulation, remaking

# Measured: the report and the configuration; an evaluation in metrics.jsonl and in the meta of a
# checkpoint; a user in summary.json and users.npz.
FIXED_BYTES, EVALUATION_BYTES, USER_BYTES = 150_000, 3_000, 500


class Written(NamedTuple):
    """Bytes, at most.

    Attributes:
      checkpoint: one checkpoint, with the last state and another best state.
      kept: the number of checkpoints that stay.
      results: all other files of the run directory.
      rows: the files of private rows of --store=disk while the run trains.
    """

    checkpoint: int
    kept: int
    results: int
    rows: int

    @property
    def total(self) -> int:
        """Bytes of the run directory."""
        return self.kept * self.checkpoint + self.results


def written(simulation: Simulation) -> Written:
    """The bytes that the run of this simulation writes."""
    config, users = simulation.config, simulation.population.num_users
    evaluations = config.federation.rounds // config.evaluation.eval_every + 2
    rows = 0
    if config.run.store == "disk":
        # Committed and staged rows of the last and of the best state.
        rows = 4 * users * trees.num_bytes(simulation.initial.client_shapes)
    return Written(
        checkpoint=2 * sum(remaking.saved_bytes(simulation)) + EVALUATION_BYTES * evaluations,
        kept=config.run.keep_checkpoints + config.run.keep_best,
        results=FIXED_BYTES + EVALUATION_BYTES * evaluations + USER_BYTES * users,
        rows=rows,
    )


def describe_disk(simulation: Simulation) -> str:
    """One line: the bytes and their parts."""
    found, config = written(simulation), simulation.config
    plural = "s" * (found.kept > 1)
    line = (
        f"writes at most {megabytes(found.total)} to {config.workdir}: {found.kept} "
        f"checkpoint{plural} of {megabytes(found.checkpoint)}, other files "
        f"{megabytes(found.results)}"
    )
    if found.rows:
        line += f"; private rows take up to {megabytes(found.rows)} of files while it trains"
    return line


def megabytes(size: float) -> str:
    """ "12.3 MB"."""
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:.3g} GB"
