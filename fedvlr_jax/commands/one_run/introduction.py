"""The lines that a run prints before it trains."""

from __future__ import annotations

from fedvlr_jax.commands.one_run.disk import describe_disk
from fedvlr_jax.federated.exchanges import exchanges_of
from fedvlr_jax.fusion import describe_views
from fedvlr_jax.memory import describe_plan
from fedvlr_jax.report import Progress
from fedvlr_jax.simulation import Simulation


def introduce(simulation: Simulation, progress: Progress) -> None:
    """Prints the data set, the views, the plan, the bytes written and the initialization."""
    config, dataset = simulation.config, simulation.dataset
    progress.note(
        f"{dataset.name}: {dataset.num_users} clients, {dataset.num_items} items, "
        f"{len(dataset.train)} train interactions"
    )
    initial = simulation.setup.initialization
    # --init=ease puts the features into the ID table, so they need no view of their own.
    in_views = () if initial is not None and initial.content else dataset.features
    for line in describe_views(simulation.model.fusion, in_views):
        progress.note(line)
    progress.note(describe_plan(simulation))
    progress.note(describe_disk(simulation))
    if not len(dataset.valid):
        progress.note("no validation part: trains all --rounds and tests the last state")
    if initial is not None:
        for exchange in exchanges_of(config, simulation.model, dataset, initial):
            progress.note(exchange.line)
