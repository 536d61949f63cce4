"""The tables of names: every line leads to an object, and the flags read the same tables."""

import dataclasses
import re

import pytest

from fedvlr_jax import registry
from fedvlr_jax.attacks import ATTACKS
from fedvlr_jax.config import Config
from fedvlr_jax.config.federation import SUMS
from fedvlr_jax.federated.plans import PLANS
from fedvlr_jax.federated.server_optimizer import SERVER_OPTIMIZERS
from fedvlr_jax.fleet.availability import AVAILABILITIES
from fedvlr_jax.fusion import FUSIONS, OPERATORS
from fedvlr_jax.models import BACKBONES
from fedvlr_jax.reduce import REDUCTIONS
from fedvlr_jax.reduce.registry import RuleOptions
from fedvlr_jax.uplink import Needs

# Table, its objects, its room, the flag that chooses, and the further values of the flag.
TABLES = {
    "backbones": (registry.BACKBONES, BACKBONES, ".models.", "backbone", ()),
    "fusions": (registry.FUSIONS, FUSIONS, ".fusion.", "fusion", ()),
    "operators": (registry.OPERATORS, OPERATORS, ".fusion.", None, ()),
    "losses": (
        registry.LOSSES,
        registry.Factories(registry.LOSSES),
        ".federated.",
        "loss",
        ("auto",),
    ),
    "plans": (registry.PLANS, PLANS, ".federated.", "plan", ("auto",)),
    "optimizers": (registry.OPTIMIZERS, SERVER_OPTIMIZERS, ".federated.", "server_optimizer", ()),
    "rules": (registry.RULES, REDUCTIONS, ".reduce.", "aggregation", ("auto",)),
    "attacks": (registry.ATTACKS, ATTACKS, ".attacks.", "attack", ("none",)),
    "availabilities": (registry.AVAILABILITIES, AVAILABILITIES, ".fleet.", "participation", ()),
}


def flag(name):
    groups = (getattr(Config(), group.name) for group in dataclasses.fields(Config))
    (field,) = [f for group in groups for f in dataclasses.fields(group) if f.name == name]
    return field.metadata


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_the_one_list_of_names(name):
    table, objects, room, chooses, more = TABLES[name]
    assert list(objects) == list(table) and len(objects) == len(table)
    for entry, choice in table.items():
        assert callable(objects[entry]) or name == "plans"
        assert choice.home.startswith(room) and not choice.about.endswith(".")
    if chooses:
        assert flag(chooses)["choices"] == (*more, *table)
        for entry in table:
            assert re.search(rf"\b{entry}: \w", flag(chooses)["help"]), entry


def test_no_two_lines_are_the_same_part():
    """A label flip is honest training on other histories; each other name is a part of its own."""
    homes = [choice.home for table, *_ in TABLES.values() for choice in table.values()]
    assert len(homes) - len(set(homes)) == 1


def test_an_unknown_name_is_no_object():
    with pytest.raises(KeyError):
        BACKBONES["als"]
    assert "als" not in BACKBONES


def test_rules_that_sum_need_no_more_than_sums():
    made = {name: make(RuleOptions(5.0, 0.1)) for name, make in REDUCTIONS.items()}
    assert SUMS == tuple(name for name, rule in made.items() if rule.needs == Needs.SUM)


def doubled(*, share, twice=2.0):
    return share, twice


@dataclasses.dataclass(frozen=True)
class Options:
    share: float
    other: str = "not a parameter of the factory"


def test_a_factory_gets_the_options_that_it_names():
    choice = registry.Choice(f"{__name__}:doubled", "for this test")
    assert registry.Factories({"a": choice})["a"](Options(0.3)) == (0.3, 2.0)
    assert registry.Objects({"a": choice})["a"] is doubled
