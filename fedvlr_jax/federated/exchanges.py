"""The exchanges with every client before the first round: their content and their size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedvlr_jax.config import Config, InitConfig
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.federated import ials, transitions
from fedvlr_jax.federated.ease_settings import (
    Wanted,
    tried_ials,
    tried_models,
    tried_transitions,
)
from fedvlr_jax.federated.initialization import (
    Initialization,
    sources_of,
)
from fedvlr_jax.federated.model import Model
from fedvlr_jax.federated.preferences import EXCHANGES
from fedvlr_jax.federated.subspace import OVERSAMPLING


class Exchange(NamedTuple):
    """The messages between the server and each client before the first round.

    Attributes:
      text: what they are for, and its settings, for the start of a run.
      steps: what is exchanged, in words.
      down: float32 numbers to each client.
      up: float32 numbers from a client, for each item of its history.
      once: float32 numbers from a client beside those.
      more: what else a client receives, for the start of a run.
    """

    text: str
    steps: str
    down: int
    up: int
    once: int = 0
    more: str = ""

    @property
    def line(self) -> str:
        """The steps and their sizes."""
        return (
            f"{self.text}; before the first round with every client: {self.steps}; "
            f"each client receives {4 * self.down / 1e6:.3g} MB{self.more}, and sends "
            f"{f'{4 * self.once / 1e3:.3g} kB plus ' * (self.once > 0)}{4 * self.up / 1e3:.3g} kB "
            "for each item of its history"
        )


def exchanges_of(
    config: Config, model: Model, dataset: Dataset, initial: Initialization | None = None
) -> list[Exchange]:
    """The exchanges that --init and --init_router ask for; none for random values.

    Args:
      initial: the result of `make_initialization`, whose choices are then stated.
    """
    init, found = config.init, []
    items, width = model.num_items, model.width
    if init.init == "ease" and config.privacy.privacy != "none":
        # All numbers of a client's contribution follow from the list of its items.
        steps = f"one noisy matrix of {items} x {items}"
        found.append(Exchange(f"init ease{_chosen(initial)}", steps, items * width, 1))
    elif init.init == "ease":
        found.append(_ease_exchange(init, width, dataset, initial))
    if init.init == "spectral" and config.privacy.privacy != "none":
        up = init.init_exchanges * min(width, items)
        steps = f"{init.init_exchanges} exchanges with noise"
        found.append(Exchange("init spectral", steps, items * (up + width), up))
    elif init.init == "spectral":
        up = init.init_exchanges * min(width + OVERSAMPLING, dataset.num_users, items)
        steps = f"counts, {init.init_exchanges} exchanges, a mean score"
        # First the counts of the items, last the table from which a client computes its vector.
        found.append(Exchange("init spectral", steps, items * (1 + up + width), up))
    if init.init_router in ("history", "mean"):
        up = EXCHANGES * (init.init_topics if "id" in sources_of(model.fusion.names) else 0)
        steps = f"counts{f' and {EXCHANGES} exchanges' * (up > 0)}"
        text = f"routers by {init.init_router}"
        more = ", the features of its items and the catalogue's mean likeness to each"
        mean = len(model.fusion.names) if init.init_router == "mean" else 0
        found.append(Exchange(text, steps, items * (1 + up) + mean, up, mean, more))
    return found


def _ease_exchange(
    init: InitConfig, width: int, dataset: Dataset, initial: Initialization | None
) -> Exchange:
    """The exchange of --init=ease."""
    items, wanted = dataset.num_items, Wanted.of(init)
    tried = len(tried_models(dataset, wanted.content, wanted.normalization))
    up, once = tried * init.init_exchanges * min(width + OVERSAMPLING, items), 0
    blends = tried_ials(dataset, width, wanted.ials)
    # Clients compare the models on validation, and the blends with iALS where these are not given:
    # a table and a column each, beside the counts.
    compares = tried > 1 or (blends and init.init_ials == -1)
    compared = tried * (width + 1) if compares else 0
    down = 1 + up + compared + width
    steps = f"counts, {tried} models x {init.init_exchanges} exchanges"
    for setting in blends:
        columns = ials.num_factors(dataset.train, width, setting.parts)
        of_item, more = ials.uploaded_numbers(columns)
        up, once = up + of_item, once + more
        down += ials.SWEEPS * columns
    if len(blends) > 1:
        down += len(blends) * width  # Clients compare them on validation.
    if blends:
        steps += f", {len(blends)} of iALS x {ials.SWEEPS} sweeps"
    down *= items
    if any(tried_transitions(dataset, wanted.transitions)):
        # Each client scales the rows and takes the step by a matrix from the server.
        columns = min(width, items)
        down += 2 * columns**2
        once += transitions.uploaded_numbers(columns)
        steps += ", transitions"
    text = f"init ease{_chosen(initial)}"
    return Exchange(text, f"{steps}, a mean score", down, up, once)


def _chosen(initial: Initialization | None) -> str:
    """The settings of --init=ease; "" before they are chosen."""
    if initial is None:
        return ""
    columns, l2 = initial.ials
    blend = f"iALS in {columns:g} columns with l2 {l2:g}" if columns else "no iALS"
    return (
        f": content {initial.content:.3g}, normalization {initial.normalization:g}, "
        f"recency {initial.recency:g}, transitions {initial.transitions:g}, {blend}"
    )


def bytes_before_training(
    config: Config, model: Model, dataset: Dataset
) -> tuple[float, np.ndarray]:
    """(bytes to each client, bytes from each client, float64 [N]) of all exchanges.

    The features that --init_router sends are not counted.
    """
    found = exchanges_of(config, model, dataset)
    up = sum(exchange.up for exchange in found) * dataset.train.counts
    once = sum(exchange.once for exchange in found)
    return 4.0 * sum(exchange.down for exchange in found), 4.0 * (up + once)
