"""The message of a run directory that holds a run with other flags."""

import pytest

from fedvlr_jax.commands.one_run.runs import check_same
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError


def differences(was, now, data="a"):
    """The named differences between two runs, with the flags as a run directory has them."""
    flags = [Config.from_flat(**given).resolved.flat for given in (was, now)]
    with pytest.raises(InputError) as caught:
        check_same("here", (flags[0], "a"), (flags[1], data))
    found = caught.value.line.removeprefix("here: holds another run: ").partition("; give")[0]
    return found.split("; ")


def test_flags_that_follow_from_another_are_not_named():
    assert differences({}, {"attack": "fedrec"}) == ["--attack was 'none', is 'fedrec'"]
    assert differences({"attack": "fedrec"}, {}) == ["--attack was 'fedrec', is 'none'"]
    private = {"privacy": "central", "clip_norm": 1.0, "noise_multiplier": 1.0}
    names = sorted(line.split()[0] for line in differences({}, private))
    assert names == ["--clip_norm", "--noise_multiplier", "--privacy"]


def test_a_given_value_is_named_though_it_could_follow():
    named = differences({"width": 7}, {"attack": "fedrec"})
    assert named == ["--width was 7, is 64", "--attack was 'none', is 'fedrec'"]
    assert differences({}, {"init": "random"}) == ["--init was 'ease', is 'random'"]


def test_other_data_are_named():
    assert differences({}, {}, data="b") == ["the data have changed"]
