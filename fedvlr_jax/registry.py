"""The names that flags choose from, in one place: a new part is one file and one line here.

A line has the name, the object's home "module:object" relative to `fedvlr_jax`, and its description
for `--help`. The flags take their choices from these tables and the rooms take the objects, so no
name is written twice. Importing this module loads no JAX: a home is imported when its object is
first used.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Choice:
    """One line of a table.

    Attributes:
      home: "module:object"; a module that begins with a dot is relative to `fedvlr_jax`.
      about: the description, without a full stop.
    """

    home: str
    about: str

    def load(self) -> Any:
        """The object, whose module is imported by the first call."""
        module, name = self.home.split(":")
        return getattr(importlib.import_module(module, package=__package__), name)


@dataclasses.dataclass(frozen=True)
class Rule(Choice):
    """An aggregation rule.

    Attributes:
      sums: whether it sums the uploads with weights that are known before training.
      withstands: the share of hostile clients that it must stay below; 1: it has no such bound.
      takes_share: whether its factory takes --byzantine_share.
    """

    sums: bool = False
    withstands: float = 0.5
    takes_share: bool = False


@dataclasses.dataclass(frozen=True)
class Forgery(Choice):
    """An attack.

    Attributes:
      takes_strength: whether its factory takes --attack_strength.
    """

    takes_strength: bool = True


class Objects(Mapping[str, Any]):
    """The objects of a table by name, in its order."""

    def __init__(self, table: Mapping[str, Choice]) -> None:
        self._table = table

    def __getitem__(self, name: str) -> Any:
        return self._table[name].load()

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


class Factories(Objects):
    """The objects of a table of factories: each becomes a function of one record of options.

    A factory names its parameters as the fields of that record, and gets the fields that it names.
    """

    def __getitem__(self, name: str) -> Any:
        return functools.partial(_build, super().__getitem__(name))


def _build(factory: Any, options: Any) -> Any:
    given = options._asdict() if hasattr(options, "_asdict") else vars(options)
    wanted = inspect.signature(factory).parameters
    return factory(**{name: given[name] for name in wanted if name in given})


def described(table: Mapping[str, Choice]) -> str:
    """ "name: description; ..." over all lines."""
    return "; ".join(f"{name}: {choice.about}" for name, choice in table.items())


# Factories of a `Backbone`, over the fields of `ModelConfig`.
BACKBONES = {
    "fedavg": Choice(".models.fedavg:fedavg", "shared item table and linear head"),
    "fcf": Choice(".models.fcf:fcf", "private user vector and bias"),
    "fedncf": Choice(".models.fedncf:fedncf", "NeuMF with private user vectors"),
    "pfedrec": Choice(
        ".models.pfedrec:pfedrec", "private head; item rows tuned by the client in each round"
    ),
    "fedrap": Choice(".models.fedrap:fedrap", "private head and a private item table"),
}

# Factories of a `Fusion`, over the fields of `fusion.FusionOptions`.
FUSIONS = {
    "none": Choice(".fusion.fusions:none", "the ID row alone"),
    "vbpr": Choice(".fusion.fusions:vbpr", "the ID row plus the features by one shared projection"),
    "mlp": Choice(".fusion.fusions:mlp", "one shared MLP over the ID and the features"),
    "shared": Choice(
        ".fusion.fusions:shared", "one learned mixture for all clients, a control for bilevel"
    ),
    "bilevel": Choice(".fusion.fusions:bilevel", "each client's private router weighs the views"),
}

# Flax modules over the tokens of all items.
OPERATORS = {
    "sum": Choice(".fusion.operators:Sum", "the sum of the mapped modalities"),
    "mixture": Choice(".fusion.operators:Mixture", "their mean by weights that all clients share"),
    "mlp": Choice(".fusion.operators:Mlp", "an MLP over them"),
    "gate": Choice(".fusion.operators:Gate", "a gate for each of them"),
    "attention": Choice(".fusion.operators:Attention", "self-attention over them"),
    "cross_attention": Choice(
        ".fusion.operators:CrossAttention", "attention of the ID to the features"
    ),
}

# Functions of `losses.Loss`, over the fields of `federated.local.Task`.
LOSSES = {
    "bce": Choice(".federated.losses:bce", "binary cross-entropy of every row, as published"),
    "softmax": Choice(
        ".federated.losses:softmax_loss",
        "cross-entropy of each positive against the client's positives and all items of the pool "
        "of negatives",
    ),
}

# A `Plan` each. --plan=auto takes the first that fits, but dense only where it costs less than
# gathered.
PLANS = {
    "dense": Choice(
        ".federated.plans.dense:DENSE", "linear algebra over the catalogue, for linear heads"
    ),
    "factored": Choice(".federated.plans.factored:FACTORED", "over the catalogue, for fedrap"),
    "catalogue": Choice(
        ".federated.plans.catalogue:CATALOGUE", "over the catalogue, for any other head"
    ),
    "gathered": Choice(".federated.plans.gathered:GATHERED", "only the rows that a client touches"),
}

# Step -> an Optax optimizer.
OPTIMIZERS = {
    "none": Choice(
        ".federated.server_optimizer:no_step",
        "the server takes no step, so clients train only their private parameters and the shared "
        "ones keep their initial values",
    ),
    "sgd": Choice(".federated.server_optimizer:sgd", "gradient descent"),
    "momentum": Choice(".federated.server_optimizer:momentum", "with momentum 0.9"),
    "adam": Choice(".federated.server_optimizer:adam", "Adam"),
    "yogi": Choice(".federated.server_optimizer:yogi", "Yogi"),
}

# Factories of a `Reduce`, over the fields of `reduce.RuleOptions`.
RULES = {
    "float32": Rule(".reduce.mean:weighted_mean", "weighted mean", sums=True, withstands=1.0),
    "int32": Rule(
        ".reduce.mean:fixed_point_mean",
        "weighted mean in fixed point, with the same bits on 1, 2, 4 and 8 CPU devices",
        sums=True,
        withstands=1.0,
    ),
    "fixed_mean": Rule(
        ".reduce.mean:fixed_denominator_mean",
        "the sum divided by the expected number of clients",
        sums=True,
        withstands=1.0,
    ),
    "median": Rule(".reduce.coordinates:median", "the median of each coordinate"),
    "trimmed_mean": Rule(
        ".reduce.coordinates:trimmed_mean",
        "of each coordinate, the mean without the lowest and highest values",
        takes_share=True,
    ),
    "krum": Rule(".reduce.gram:krum", "the upload with the nearest neighbours", takes_share=True),
    "multi_krum": Rule(
        ".reduce.gram:multi_krum",
        "the mean of the uploads with the nearest neighbours",
        takes_share=True,
    ),
    "geometric_median": Rule(".reduce.gram:geometric_median", "RFA"),
    "norm_bound": Rule(
        ".reduce.robust:norm_bound",
        "the mean of the uploads clipped to their median norm",
        withstands=1.0,
    ),
    "bulyan": Rule(
        ".reduce.robust:bulyan",
        "Krum, then per coordinate the mean near the median",
        withstands=0.25,
        takes_share=True,
    ),
    "row_median": Rule(
        ".reduce.robust:row_median",
        "per item, the median over the clients that touched it",
        takes_share=True,
    ),
    "secure": Rule(
        ".reduce.secure:secure_mean",
        "the unweighted mean, as a secure sum of rounded uploads",
    ),
}

# Factories of an `Attack`, over the fields of `attacks.AttackOptions`.
ATTACKS = {
    "honest": Forgery(
        ".attacks.statistics:honest", "clients are added, but do not attack", takes_strength=False
    ),
    "sign_flip": Forgery(".attacks.statistics:sign_flip", "minus the trained upload"),
    "scaling": Forgery(".attacks.statistics:scaling", "the trained upload times a factor"),
    "label_flip": Forgery(
        ".attacks.statistics:honest",
        "trained on items outside a plausible history as positives",
        takes_strength=False,
    ),
    "not_a_number": Forgery(
        ".attacks.statistics:not_a_number", "uploads that are not finite", takes_strength=False
    ),
    "alie": Forgery(".attacks.statistics:alie", "a little is enough", takes_strength=False),
    "ipm": Forgery(".attacks.statistics:ipm", "inner product manipulation"),
    "ua_fedrec": Forgery(".attacks.statistics:ua_fedrec", "UA-FedRec"),
    "spattack": Forgery(".attacks.statistics:spattack", "Spattack"),
    "cluster": Forgery(".attacks.statistics:cluster", "ClusterAttack"),
    "a_ra": Forgery(".attacks.targeted:a_ra", "A-ra, for the target items"),
    "a_hum": Forgery(".attacks.targeted:a_hum", "A-hum, for the target items"),
    "fedrec": Forgery(".attacks.targeted:fedrec", "FedRecAttack, for the target items"),
    "pieck_ipe": Forgery(".attacks.targeted:pieck_ipe", "PIECK-IPE, for the target items"),
    "pieck_uea": Forgery(".attacks.targeted:pieck_uea", "PIECK-UEA, for the target items"),
}

# Factories of an `Availability`, over the fields of `fleet.availability.AvailabilityOptions`.
AVAILABILITIES = {
    "always": Choice(".fleet.availability:always", "at any time"),
    "uniform": Choice(
        ".fleet.availability:uniform",
        "each with probability --available_share, drawn in each round",
    ),
    "diurnal": Choice(
        ".fleet.sessions:diurnal", "in sessions by day and night, as in a published trace"
    ),
    "trace": Choice(".fleet.traces:from_trace", "in the sessions of --trace"),
}
