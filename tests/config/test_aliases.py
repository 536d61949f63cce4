"""Flags that were renamed: the earlier names still work, in Python, as flags, and in saved runs."""

import json

import pytest

from fedvlr_jax.config import ALIASES, Config, with_current_names
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory


def test_every_alias_leads_to_a_flag_and_hides_none():
    flags = set(Config().flat)
    assert set(ALIASES.values()) <= flags and not set(ALIASES) & flags


def test_a_config_of_earlier_names():
    old = Config.from_flat(start="ease", start_ridge=3.0, dropout=0.25, copy_lr=0.5, views="table")
    assert old == Config.from_flat(
        init="ease", init_ridge=3.0, client_dropout=0.25, delta_lr=0.5, views="table"
    )


def test_both_names_are_refused():
    with pytest.raises(InputError, match="dropout: an earlier name of client_dropout"):
        with_current_names({"dropout": 0.1, "client_dropout": 0.2})


def test_a_saved_run_is_read_with_the_names_of_today(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"flags": {"start": "ease", "rounds": 3}}))
    assert RunDirectory.open(path).read_config()["flags"] == {"init": "ease", "rounds": 3}
