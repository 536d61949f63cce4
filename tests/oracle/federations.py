"""The federations that the tests compare: seeded random combinations of choices."""

import functools
import itertools

import numpy as np

OPERATORS = ("sum", "mixture", "mlp", "gate", "attention", "cross_attention")
# Each choice cycles through its values in a random order.
CHOICES = {
    "backbone": ("fcf", "fedavg", "pfedrec", "fedrap", "fedncf"),
    "fusion": ("bilevel", "bilevel", "bilevel", "mlp", "bilevel", "none", "bilevel", "vbpr"),
    "views": (
        "id,text",
        "sum,image",
        "gate,id",
        "table,text,mlp",
        "attention,image",
        "mixture,id",
        "cross_attention,text",
        "sum,mlp,gate",
    ),
    "loss": ("bce", "softmax"),
    "negatives": ("expected", "sampled"),
    "num_negatives": (1, 2),
    "upload": ("gradient", "delta"),
    "server_optimizer": ("sgd", "momentum", "adam", "yogi", "none"),
    "server_decay": (0.0, 0.3),
    "client_decay": (0.0, 0.2),
    "clip_norm": (0.0, 0.04),
    "recency": (0.0, 0.8),
    "history_weight": (0.0, 0.7),
    "local_epochs": (3, 2),
    "min_local_epochs": (0, 1),
    "cohort": (0, 4),
    "client_dropout": (0.0, 0.35),
    "protocol": ("strict", "paper"),
    "aggregation": ("float32", "float32", "float32", "int32"),
    "chunk": (0, 0, 4),
    "modalities": (("image", "text"), ("image", "text"), ("image", "text"), ()),
    "plan": ("gathered", "dense", "gathered", "catalogue", "gathered", "factored"),
}
# Replacements for combinations that a plan cannot train.
ON_THE_VIEWS = {"negatives": "expected", "upload": "gradient", "clip_norm": 0.0}
PLAN_ASKS = {
    "gathered": {},
    "dense": {"history_weight": 0.0},
    "catalogue": ON_THE_VIEWS,
    "factored": ON_THE_VIEWS | {"backbone": "fedrap", "history_weight": 0.0, "recency": 0.0},
}
PLAN_CANNOT = {
    "dense": {"fedncf": "fedavg", "fedrap": "pfedrec"},
    "catalogue": {"fedrap": "fedncf"},
}


ALL = 200
# `pairwise()` covers every possible pair of values of these choices.
PAIRED = (
    "backbone",
    "fusion",
    "plan",
    "loss",
    "negatives",
    "upload",
    "server_optimizer",
    "clip_norm",
    "recency",
    "history_weight",
)


@functools.cache
def federations():
    """ALL dicts of choices; the same on every call."""
    count = ALL
    columns = {}
    for place, (name, values) in enumerate(CHOICES.items()):
        rng = np.random.default_rng([7, place])
        column = []
        while len(column) < count:
            column += [values[i] for i in rng.permutation(len(values))]
        columns[name] = column[:count]
    result = []
    for row in zip(*columns.values(), strict=True):
        choices = dict(zip(columns, row, strict=True))
        plan = choices["plan"]
        choices |= PLAN_ASKS[plan]
        choices["backbone"] = PLAN_CANNOT.get(plan, {}).get(
            choices["backbone"], choices["backbone"]
        )
        choices["min_local_epochs"] = min(choices["min_local_epochs"], choices["local_epochs"])
        result.append(choices)
    return result


def views_of(choices):
    """The views of a federation; without features, no view of a modality."""
    if choices["fusion"] != "bilevel":
        return (choices["fusion"],)
    known = {"id", "table", *choices["modalities"], *OPERATORS}
    return tuple(view for view in choices["views"].split(",") if view in known) or ("id",)


def _holds(choices):
    """The (choice, value) pairs that a federation covers."""
    pairs = itertools.combinations([(name, choices[name]) for name in PAIRED], 2)
    views = [("view", view, choices["modalities"] != ()) for view in views_of(choices)]
    return {*pairs, *views, *choices.items()}


def _cover(holds):
    """Few keys of `holds` whose sets hold everything that any of them holds, greedily."""
    left, chosen = set().union(*holds.values()), []
    while left:
        best = max(holds, key=lambda key: len(holds[key] & left))
        chosen.append(best)
        left -= holds[best]
    return tuple(chosen)


@functools.cache
def pairwise():
    """Numbers of few federations that cover every choice, value and pair of PAIRED."""
    return _cover({n: _holds(choices) for n, choices in enumerate(federations())})


@functools.cache
def essential():
    """Those of `pairwise()` that cover every value, every view and each backbone on each plan."""

    def holds(choices):
        views = [("view", view) for view in views_of(choices)]
        return {*choices.items(), *views, (choices["backbone"], choices["plan"])}

    return _cover({n: holds(federations()[n]) for n in pairwise()})


def numbers_with(count=3, among=None, **wanted):
    """At most `count` numbers whose federations have the choices `wanted`.

    A federation has a `view` if the view is among its operators or modalities, or is its fusion.

    Args:
      among: numbers to choose from; None: `pairwise()`.
    """

    def meets(choices):
        return all(
            value in views_of(choices) if name == "view" else choices[name] == value
            for name, value in wanted.items()
        )

    numbers = pairwise() if among is None else among
    return [number for number in numbers if meets(federations()[number])][:count]
