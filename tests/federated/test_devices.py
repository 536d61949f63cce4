"""One device and eight train the same federation."""

import jax
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.devices import GROUPS, _fixed_point, client_mesh
from fedvlr_jax.settings import compiled
from tests.federated import device_bits, moving_bits
from tests.federated.multi_device import CASES, FIXED_POINT
from tests.programs import QUICK_COMPILATION

DEVICES = (1, 8)
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"


def close(loss, relative):
    """What a loss has to equal; round 0 has none."""
    return None if loss is None else pytest.approx(loss, rel=relative)


@pytest.mark.long
@pytest.mark.slow
def test_one_device_and_eight_train_the_same_federation(printed_json):
    flags = f"{EIGHT_DEVICES} {QUICK_COMPILATION}"
    numbers = ",".join(map(str, DEVICES))
    results = printed_json("tests.federated.multi_device", numbers, xla_flags=flags)
    for name in CASES:
        one, other = (results[f"{name} float32 {devices}"] for devices in DEVICES)
        # A single device is a mesh of one, or none.
        assert (one["shards"], other["shards"]) == DEVICES
        for a, b in zip(one["evaluations"], other["evaluations"], strict=True):
            assert b["loss"] == close(a["loss"], 1e-5), name
            assert b["valid"]["ndcg@50"] == pytest.approx(a["valid"]["ndcg@50"], rel=1e-5), name
    for name in FIXED_POINT:
        for devices in DEVICES:
            keys = (f"{name} {aggregation} {devices}" for aggregation in ("float32", "int32"))
            plain, fixed = (results[key]["evaluations"] for key in keys)
            for a, b in zip(plain, fixed, strict=True):
                assert b["loss"] == close(a["loss"], 1e-4), name


@pytest.fixture
def assert_equal_bits(printed_json):
    """assert_equal_bits((1, 8), names): cases of `device_bits` on these numbers of devices."""

    def assert_equal_bits(counts, names):
        counts = ",".join(map(str, counts))
        arguments = "tests.federated.device_bits", counts, *names
        results = printed_json(*arguments, xla_flags=EIGHT_DEVICES)
        differ = {
            name: sorted(
                part for part in first if any(other[part] != first[part] for other in others)
            )
            for name, (first, *others) in results.items()
        }
        assert differ == {name: [] for name in names}

    return assert_equal_bits


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", device_bits.OTHERS)
def test_any_number_of_devices_has_equal_bits(name, assert_equal_bits):
    assert_equal_bits((1, 2, 4, 8) if name in device_bits.ON_EACH else (1, 8), [name])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("other", [2, 4, 8])
def test_covered_choices_have_equal_bits(other, assert_equal_bits):
    """Each federation of the cover on one device, and on one of the other numbers."""
    names = [name for name in device_bits.cases() if name not in device_bits.OTHERS]
    assert_equal_bits((1, other), names[(2, 4, 8).index(other) :: 3])


@pytest.mark.parametrize("largest", [1e-35, 3e-9, 0.5, 0.7, 1.0, 5e4, 3e38])
def test_the_scale_of_a_fixed_point_sum_is_an_exact_power_of_two(largest):
    largest = np.float32(largest)
    for scale_of in (_fixed_point, compiled(_fixed_point)):
        scale = float(scale_of(largest))
        assert np.log2(scale) == np.round(np.log2(scale))
        assert GROUPS * float(largest) * scale <= 2**30
        # The next power of two would overflow, except at the lower bound of `largest`.
        assert 2 * GROUPS * max(float(largest), 1e-30) * scale >= 2**30
        assert np.isnan(scale_of(np.float32(np.inf))) and np.isnan(scale_of(np.float32(np.nan)))


def test_fixed_point_sums_refuse_hostile_clients():
    """The check for finite uploads sums in floating point."""
    with pytest.raises(InputError, match=r"aggregation=int32: .* give aggregation=float32"):
        Config.from_flat(aggregation="int32", attack="sign_flip", hostile_share=0.1)


@pytest.mark.slow
def test_a_state_moves_from_one_to_four_devices_and_back(tmp_path, printed_json):
    flags = f"--xla_force_host_platform_device_count=4 {QUICK_COMPILATION}"
    results = printed_json("tests.federated.moving_bits", str(tmp_path), xla_flags=flags)
    assert results == {"shards": list(moving_bits.DEVICES), "restored": [True] * 4, "end": True}


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"devices=64: this machine has"):
        client_mesh(64)


@pytest.mark.parametrize(
    ("found", "taken"), [(1, None), (2, 2), (3, 2), (6, 4), (7, 4), (8, 8), (12, 8)]
)
def test_by_default_as_many_devices_as_divide_the_clients(found, taken, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: list(range(found)))
    monkeypatch.setattr(jax, "make_mesh", lambda shape, *_, devices, **__: (*shape, *devices))
    mesh = client_mesh(0)
    assert mesh == (None if taken is None else (taken, *range(taken)))
    for asked in (3, 5, 6, 7, 16):
        wrong = "give 1, 2, 4 or 8" if asked <= found else f"this machine has {found}"
        with pytest.raises(InputError, match=f"devices={asked}: {wrong}"):
            client_mesh(asked)


def test_several_processes_use_all_of_their_devices(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [0, 1, 2])
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    for asked in (0, 2):
        with pytest.raises(InputError, match=rf"devices={asked}: 3 processes have 3 devices"):
            client_mesh(asked)
