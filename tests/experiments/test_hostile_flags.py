"""Generated flags: each is refused in one line, or means what was written."""

import dataclasses
import math

import pytest
from absl import flags
from absl.testing import flagsaver
from hypothesis import given
from hypothesis import strategies as st

from fedvlr_jax.commands.launching import config_flags, messages
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from tests.data.test_hostile_files import fuzz

FIELDS = {
    field.name: field
    for group in dataclasses.fields(Config)
    for field in dataclasses.fields(getattr(Config(), group.name))
}
NUMBERS = [
    *("0", "1", "-1", "3", "0.5", "1e3", "1e-3", "nan", "inf", "-inf", "1e999", "-0.0", "0x10"),
    *("1_0", " 2 ", "", "1,5", "٣", "true", "None", "9" * 30, str(2**31 - 1), str(2**31)),
]
WORDS = [
    *("auto", "all", "a,b", "id,id", "id, text", ",", "id;text", "../x", "KU", "é", "a b", "'"),
    *("10,50", "50", "10", "50,-1", "50,50", "50.0", "must", "never", "fcf ", "FCF", "none"),
]


@pytest.fixture(scope="module", autouse=True)
def defined():
    """The flags of the configuration, as long as this module's tests run."""
    before = set(flags.FLAGS)
    config_flags.define_config_flags()
    own = set(flags.FLAGS) - before
    yield
    flags.FLAGS.remove_flag_values(sorted(own))


def parsed(arguments):
    """The config of a command line; None where it was refused, as `launch` would print it."""
    with flagsaver.flagsaver():
        try:
            rest = flags.FLAGS(["train", *arguments])
            return config_flags.config_from_flags() if len(rest) == 1 else None
        except (flags.Error, InputError, OSError, UnicodeError) as error:
            line = messages.one_line(error)
            assert line and line.isprintable()
            return None


def check_meaning(name, text, value):
    default = FIELDS[name].default
    if isinstance(default, bool):
        assert text.lower() in ("true", "false", "t", "f", "1", "0", "yes", "no", "y", "n")
    elif isinstance(default, int):
        assert value == int(text, 0) or value == int(text)
        assert abs(value) < 2**31
    elif isinstance(default, float):
        assert value == float(text) and math.isfinite(value)
    else:
        assert value == text
    choices = FIELDS[name].metadata["choices"]
    assert choices is None or value in choices


@fuzz
@given(
    st.dictionaries(
        st.sampled_from(sorted(FIELDS)),
        st.sampled_from([*NUMBERS, *WORDS]) | st.text(max_size=6),
        min_size=1,
        max_size=3,
    )
)
def test_odd_values_are_refused_or_meant(values):
    config = parsed([f"--{name}={text}" for name, text in values.items()])
    if config is not None:
        for name, text in values.items():
            check_meaning(name, text, config.flat[name])
        assert Config.from_flat(**config.flat) == config
        assert 50 in config.evaluation.cutoffs and min(config.evaluation.cutoffs) > 0


@fuzz
@given(st.lists(st.text(max_size=12) | st.text("-=abr0 .", max_size=8), min_size=1, max_size=3))
def test_odd_arguments_are_refused_or_change_nothing(arguments):
    config = parsed(arguments)
    if config is not None:
        flat, named = config.flat, " ".join(arguments)
        changed = {name for name, value in Config().flat.items() if flat[name] != value}
        assert all(name in named for name in changed)
