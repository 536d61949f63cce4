"""fedvlr_jax: a compiled simulator of personalised federated multimodal recommendation.

    import fedvlr_jax as fj

    dataset = fj.load_dataset("synthetic")
    simulation = fj.make_simulation(fj.Config.from_flat(rounds=20), dataset)
    run, timing = fj.train(simulation)

The names below are the public surface; all else may change between versions. They are loaded
when they are first used, so that `import fedvlr_jax` does not load JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that has it.
_HOMES = {
    "Aggregator": "fedvlr_jax.federated.aggregator",
    "Backbone": "fedvlr_jax.models",
    "Config": "fedvlr_jax.config",
    "Dataset": "fedvlr_jax.data",
    "Embedding": "fedvlr_jax.models",
    "Fusion": "fedvlr_jax.fusion",
    "InputError": "fedvlr_jax.errors",
    "Interactions": "fedvlr_jax.data",
    "Linear": "fedvlr_jax.models",
    "Needs": "fedvlr_jax.uplink",
    "Noise": "fedvlr_jax.uplink",
    "NonFiniteError": "fedvlr_jax.errors",
    "Participation": "fedvlr_jax.fleet",
    "Penalty": "fedvlr_jax.models",
    "Reduce": "fedvlr_jax.reduce",
    "RoundSchedule": "fedvlr_jax.fleet",
    "RunState": "fedvlr_jax.training",
    "Simulation": "fedvlr_jax.simulation",
    "State": "fedvlr_jax.simulation",
    "UplinkTransform": "fedvlr_jax.uplink",
    "Upload": "fedvlr_jax.uplink",
    "Uploads": "fedvlr_jax.uplink",
    "check_aggregator": "fedvlr_jax.contracts",
    "check_backbone": "fedvlr_jax.contracts",
    "check_dataset": "fedvlr_jax.contracts",
    "check_fusion": "fedvlr_jax.contracts",
    "load_dataset": "fedvlr_jax.data",
    "make_aggregator": "fedvlr_jax.federated.aggregator",
    "make_simulation": "fedvlr_jax.simulation",
    "train": "fedvlr_jax.training",
}
# Written out, because a type checker reads no expression here.
__all__ = [
    "Aggregator",
    "Backbone",
    "Config",
    "Dataset",
    "Embedding",
    "Fusion",
    "InputError",
    "Interactions",
    "Linear",
    "Needs",
    "Noise",
    "NonFiniteError",
    "Participation",
    "Penalty",
    "Reduce",
    "RoundSchedule",
    "RunState",
    "Simulation",
    "State",
    "UplinkTransform",
    "Upload",
    "Uploads",
    "check_aggregator",
    "check_backbone",
    "check_dataset",
    "check_fusion",
    "load_dataset",
    "make_aggregator",
    "make_simulation",
    "train",
    "__version__",
]

if TYPE_CHECKING:
    from fedvlr_jax.config import Config
    from fedvlr_jax.contracts import (
        check_aggregator,
        check_backbone,
        check_dataset,
        check_fusion,
    )
    from fedvlr_jax.data import Dataset, Interactions, load_dataset
    from fedvlr_jax.errors import InputError, NonFiniteError
    from fedvlr_jax.federated.aggregator import Aggregator, make_aggregator
    from fedvlr_jax.fleet import Participation, RoundSchedule
    from fedvlr_jax.fusion import Fusion
    from fedvlr_jax.models import Backbone, Embedding, Linear, Penalty
    from fedvlr_jax.reduce import Reduce
    from fedvlr_jax.simulation import Simulation, State, make_simulation
    from fedvlr_jax.training import RunState, train
    from fedvlr_jax.uplink import Needs, Noise, UplinkTransform, Upload, Uploads
else:
    # Hidden from type checkers, so that they find a misspelt name.
    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'fedvlr_jax' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
