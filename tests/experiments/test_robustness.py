"""The table of attacks and rules: its command, its interval, and what it refuses."""

import json

import pytest

from fedvlr_jax.attacks import ATTACKS as REGISTRY
from fedvlr_jax.commands.flags.robustness import ATTACKS, DEFENSES, RULES
from fedvlr_jax.commands.robustness import (
    line_of,
    make_cell,
    parse_names,
    parse_shares,
    row_of,
    wilson,
    with_defense,
)
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.reduce import REDUCTIONS
from fedvlr_jax.report import RunDirectory
from tests.experiments.commands import SMALL, refused


def test_every_attack_and_every_rule_is_in_the_table():
    assert set(ATTACKS) == set(REGISTRY)
    assert set(RULES) == set(REDUCTIONS) - {"int32", "fixed_mean", "secure"}


def test_the_interval_by_wilsons_numbers():
    # 10 of 50: the 95 % interval of the method is 0.112 to 0.330.
    assert wilson(0.2, 50) == pytest.approx([0.1124, 0.3304], abs=1e-4)
    assert wilson(0.0, 100)[0] == 0.0 and wilson(1.0, 100)[1] == 1.0
    # Every user has every target: nobody is counted, so nothing is known.
    assert wilson(0.0, 0.0) == [0.0, 1.0]


@pytest.mark.parametrize(
    "parse, piece",
    [
        (lambda: parse_names("attacks", "fedrec,magic", ATTACKS), "--attacks=magic"),
        (lambda: parse_names("rules", "median,median", RULES), "--rules=median,median"),
        (lambda: parse_shares("0.05,2"), "--shares=0.05,2"),
        (lambda: parse_shares("a"), "--shares=a"),
    ],
)
def test_bad_lists_are_refused(parse, piece):
    with pytest.raises(InputError) as caught:
        parse()
    assert piece in caught.value.line


def test_every_seed_has_its_own_targets():
    base = Config.from_flat(attack_seed=3, workdir="w")
    cell = make_cell(base, (("attack", "fedrec"),), [0, 2])
    assert [(m.config.run.seed, m.config.attack.attack_seed) for m in cell] == [(0, 3), (2, 5)]
    assert {m.config.attack.attack for m in cell} == {"fedrec"}


def test_client_terms_are_a_rule_of_their_own():
    base = Config.from_flat(defense_similarity=2.0, workdir="w")
    mean, terms = (
        make_cell(*with_defense(base, "fedrec", rule, 0.05, "cold"), [0])[0]
        for rule in ("float32", "client_terms")
    )
    assert "client_terms" in DEFENSES and mean.directory != terms.directory
    assert not mean.config.defense.active and terms.config.defense == base.defense
    assert mean.config.federation == terms.config.federation
    assert line_of([mean]) is None


def test_metrics_without_a_target_are_empty(tmp_path):
    """Not 0, which says that every target is missed."""
    base = Config.from_flat(workdir=str(tmp_path))
    cell = make_cell(*with_defense(base, "fedrec", "median", 0.05, "cold"), [0, 1])
    for member, test in zip(cell, ({"hr@50": 40.0, "ndcg@50": 9.0}, {}), strict=True):
        attack = {"er@5": 0.0, "er@10": 0.0, "er@20": 0.0, "users": 4, "targets": [], "test": test}
        run = RunDirectory.create(member.directory, overwrite=False)
        run.write_config({"flags": {}})
        run.write_summary({"attack": attack})
    both, none = (row_of(line_of(members)) for members in (cell, cell[1:]))
    assert both[-2:] == ["40.0", "9.00"] and none[-2:] == ["", ""]


@pytest.mark.slow
def test_the_command_trains_each_cell_once(run, tmp_path):
    arguments = [*SMALL, "--rounds=2", "--attacks=honest,pieck_uea", "--rules=median"]
    done = run("robustness", *arguments, "--workdir=w")
    assert done.returncode == 0, done.stderr
    lines = json.loads((tmp_path / "w/robustness.json").read_text())
    assert [line["attack"] for line in lines] == ["honest", "pieck_uea"]
    for line in lines:
        low, high = line["interval"]
        assert 0 <= low <= line["er@10"] <= high <= 1 and line["seeds"] == 1
    assert "pieck_uea" in (tmp_path / "w/robustness-0.05-cold.svg").read_text()
    assert "Validation chooses nothing in this table." in (tmp_path / "w/index.html").read_text()
    summaries = list(tmp_path.glob("w/*/seed0/summary.json"))
    times = {path: path.stat().st_mtime_ns for path in summaries}
    again = run("robustness", *arguments, "--workdir=w")
    assert again.returncode == 0 and len(times) == 2
    assert {path: path.stat().st_mtime_ns for path in summaries} == times
    line = refused(run("robustness", *SMALL, "--rules=krum", "--shares=1", "--workdir=x"))
    assert "--hostile_share=1.0" in line
