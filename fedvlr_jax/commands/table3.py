"""Reproduces the paper's Table 3 on your data: parameters on a client, bytes of a round.

    fedvlr table3 --dataset=KU --workdir=runs/table3

The table has one line per backbone and fusion. "held" counts the parameters on a client in a round:
broadcast views, shared head and private rows. "down" is the broadcast. "up" is the gradient of the
touched view rows and of the shared head, in float32, averaged over clients, in three formats:

| format | content |
|---|---|
| dense | every row |
| sparse | touched rows with their numbers |
| bitmask | touched rows and one bit for every row |

The .json and .csv also have the touched values alone. With --negatives=expected a client touches
every row. With sampled it touches its history and its draws, counted as if all draws differ, at
most all rows. The command trains nothing and takes a few seconds.

*choice*: the server fuses the views, so a client holds only the fused views. The paper counts all
three modality tables on the client, also for its + MLP.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax

from fedvlr_jax.commands.launching.config_flags import config_from_flags, note_unused
from fedvlr_jax.commands.one_run.runs import load, required_workdir
from fedvlr_jax.commands.tables.tables import write_table
from fedvlr_jax.config import BACKBONE_NAMES, FUSION_NAMES, Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.federated.model import identity_view
from fedvlr_jax.fleet import SCHEMES
from fedvlr_jax.fusion import view_names
from fedvlr_jax.report.folder import Table
from fedvlr_jax.settings import key_of, shapes_of
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.simulation.workload import touched_rows
from fedvlr_jax.training.costs import client_bytes
from fedvlr_jax.types import PyTree

FLOAT_BYTES = 4


def num_parameters(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def client_costs(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Parameters on one client, and bytes of one round, mean over clients."""
    simulation = make_simulation(config, dataset)
    model = simulation.model
    key = key_of(0)
    head = num_parameters(shapes_of(model.init_shared, key)["head"])
    private = num_parameters(shapes_of(model.init_private, key))
    row = len(model.fusion.names) * model.width
    sizes = client_bytes(simulation)
    touched = float(touched_rows(simulation.setup).mean())
    return {
        "backbone": config.model.backbone,
        "fusion": config.model.fusion,
        "broadcast": dataset.num_items * row + head,
        "private": private,
        "held": dataset.num_items * row + head + private,
        "bytes_down": sizes["down"],
        "bytes_up": FLOAT_BYTES * (touched * row + head),
        **{f"bytes_up_{scheme}": size for scheme, size in sizes["up"].items()},
    }


def main() -> None:
    base = config_from_flags(init="random").resolved
    folder = required_workdir(base, "runs/table3")
    dataset = load(base)
    configs = [
        base.changed(backbone=b, fusion=f)
        for b, f in itertools.product(BACKBONE_NAMES, FUSION_NAMES)
    ]
    note_unused(*configs)
    lines = [client_costs(config, dataset) for config in configs]
    headings: tuple[str, ...] = (
        "backbone",
        "fusion",
        "held, thousands",
        "private, thousands",
        "kB down",
    )
    headings += tuple(f"kB up, {scheme}" for scheme in SCHEMES)
    rows = [
        [
            *(line["backbone"], line["fusion"]),
            *(f"{line[name] / 1000:,.1f}" for name in ("held", "private")),
            f"{line['bytes_down'] / 1000:,.1f}",
            *(f"{line[f'bytes_up_{scheme}'] / 1000:,.1f}" for scheme in SCHEMES),
        ]
        for line in lines
    ]
    title = f"{dataset.name}: one client, one round"
    views = view_names(base.model.views, dataset.features, identity_view(base))
    caption = f"{dataset.num_items} items, width {base.model.width}, views {', '.join(views)}."
    table = Table(title, headings, rows, caption, chosen=False)
    write_table(table, lines, folder / "table3")
