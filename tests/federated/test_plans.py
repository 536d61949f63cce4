"""What the help of --plan says about the plans."""

import dataclasses

import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.simulation import make_simulation

HELP = {f.name: f.metadata["help"] for f in dataclasses.fields(Config().federation)}["plan"]
BACKBONES = {"dense": "fcf", "factored": "fedrap", "catalogue": "fedncf", "gathered": "fcf"}
# The sentences of the help, and flags that the plans in them refuse.
SENTENCES = {
    "factored and catalogue need --negatives=expected and --upload=gradient": (
        *({"negatives": "sampled"}, {"upload": "delta"}),
    ),
    "dense and factored do not support --history_weight and --defense_*": (
        *({"history_weight": 1.0}, {"defense_similarity": 1.0}),
    ),
    "factored does not support weights by --recency": ({"recency": 0.5},),
}
CASES = [
    (plan, flags, plan in sentence)
    for sentence, of in SENTENCES.items()
    for flags in of
    for plan in BACKBONES
]


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 20, "items": 50})


def test_the_help_has_the_sentences():
    assert all(sentence in HELP for sentence in SENTENCES)


@pytest.mark.parametrize(("plan", "flags", "refused"), CASES)
def test_a_plan_refuses_what_its_help_says(dataset, plan, flags, refused):
    train = dataset.train.weighted_by_recency(0.5) if "recency" in flags else dataset.train
    data = dataclasses.replace(dataset, train=train)
    small = {"width": 4, "router_hidden": 3, "init": "random", "backbone": BACKBONES[plan]}
    config = Config.from_flat(plan=plan, **small, **flags)
    if refused:
        with pytest.raises(InputError, match=f"plan={plan}"):
            make_simulation(config, data)
    else:
        assert make_simulation(config, data).plan == plan
