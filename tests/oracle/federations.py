"""The federations that the tests compare: seeded random combinations of choices."""

import functools
import itertools

import numpy as np

OPERATORS = ("sum", "mixture", "mlp", "gate", "attention", "cross_attention")
CLIP = {"clip_norm": 0.04}
NOISE = CLIP | {"noise_multiplier": 0.4}
# Rules, alone and behind a transform of the uploads.
RECEIVED = {
    "int32": {"aggregation": "int32"},
    "fixed_mean": {"aggregation": "fixed_mean"},
    "secure": {"aggregation": "secure", "secure_bound": 0.05, "secure_levels": 2**20},
    "secure_noise": CLIP
    | {"aggregation": "secure", "secure_levels": 2048, "secure_threshold": 0.51}
    | {"privacy": "distributed", "noise_multiplier": 0.4},
    "median": {"aggregation": "median"},
    "trimmed_mean": {"aggregation": "trimmed_mean"},
    "krum": {"aggregation": "krum"},
    "multi_krum": {"aggregation": "multi_krum"},
    "bulyan": {"aggregation": "bulyan"},
    "geometric_median": {"aggregation": "geometric_median"},
    "norm_bound": {"aggregation": "norm_bound"},
    "row_median": {"aggregation": "row_median"},
    "adaptive": CLIP | {"clip_quantile": 0.4},
    "adaptive_median": CLIP | {"clip_quantile": 0.6, "aggregation": "median"},
    "adaptive_noise": NOISE | {"clip_quantile": 0.5},
    "client_noise": NOISE,
    "client_noise_fixed": NOISE | {"aggregation": "fixed_mean"},
    "central_noise": NOISE | {"noise": "central", "aggregation": "fixed_mean"},
    "bits": {"upload_bits": 4},
    "rows": {"upload_rows": 4, "upload_format": "sparse"},
    "bits_rows": {"upload_bits": 3, "upload_rows": 6, "upload_format": "bitmask"},
    "rank": {"upload_rank": 2},
    "rank_noise": NOISE | {"upload_rank": 3},
}
# They need only sums, so that every plan serves them.
SUMS = {"plain", "int32", "fixed_mean", "rank"}
# The number of clients of rules that rank them, 0 for all seven. With few clients Krum scores are
# equal in pairs. With six, Bulyan averages two of four values, and zeros can be as near as others.
RANKING = {"krum": 6, "multi_krum": 6, "bulyan": 0}
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
    "chunk": (0, 0, 4),
    "modalities": (("image", "text"), ("image", "text"), ("image", "text"), ()),
    "plan": ("gathered", "dense", "gathered", "catalogue", "gathered", "factored"),
    "received": tuple(itertools.chain.from_iterable(("plain", name) for name in RECEIVED)),
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
        if choices["received"] not in SUMS and choices["plan"] in ("catalogue", "factored"):
            choices["plan"] = "gathered"
        plan = choices["plan"]
        choices |= PLAN_ASKS[plan]
        choices["backbone"] = PLAN_CANNOT.get(plan, {}).get(
            choices["backbone"], choices["backbone"]
        )
        choices["min_local_epochs"] = min(choices["min_local_epochs"], choices["local_epochs"])
        if choices["received"] in RANKING:
            cohort = RANKING[choices["received"]] if choices["cohort"] else 0
            choices |= {"cohort": cohort, "client_dropout": 0.0}
        result.append(choices)
    return result


def flags_of(choices):
    """The flags of a federation."""
    received = RECEIVED.get(choices["received"], {})
    flags = {name: value for name, value in choices.items() if name != "received"}
    return {"aggregation": "float32", "byzantine_share": 0.2} | flags | received


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


@functools.cache
def essential():
    """Numbers of few federations, those of `make test`.

    They cover every value, every view, each backbone with its own weights of the clients, and each
    backbone on each plan with and without a history weight.
    """

    def holds(choices):
        backbone, plan = choices["backbone"], choices["plan"]
        # Attention over one token does not depend on its scale: with features there are more.
        views = [("view", view, choices["modalities"] != ()) for view in views_of(choices)]
        weights = (backbone, choices["received"] == "plain")
        return {*choices.items(), *views, weights, (backbone, plan, choices["history_weight"])}

    return cover([holds(choices) for choices in federations()])


@functools.cache
def pairwise():
    """The numbers of `essential()`, and as many more as cover every pair of PAIRED."""
    return cover([_holds(choices) for choices in federations()], essential())


def cover(holds, numbers=()):
    """`numbers` and as many more as needed to cover the union of the sets `holds`, greedily."""
    numbers = list(numbers)
    left = set().union(*holds).difference(*(holds[number] for number in numbers))
    while left:
        number = max(range(ALL), key=lambda n: len(holds[n] & left))
        numbers.append(number)
        left -= holds[number]
    return tuple(numbers)


def numbers_with(count=3, among=None, **wanted):
    """At most `count` (None: all) numbers whose federations have the choices `wanted`.

    A federation has a `view` if the view is among its operators or modalities, or is its fusion.

    Args:
      among: numbers to choose from; None: `pairwise()`.
    """

    def meets(choices):
        return all(
            value in views_of(choices) if name == "view" else choices[name] == value
            for name, value in wanted.items()
        )

    return [number for number in (among or pairwise()) if meets(federations()[number])][:count]
