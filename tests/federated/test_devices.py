"""One device and eight train the same federation."""

import pytest

from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.devices import client_mesh
from tests.conftest import printed_json
from tests.federated import moving_bits
from tests.federated.multi_device import CASES

DEVICES = (1, 8)


def close(loss, relative):
    """What a loss has to equal; round 0 has none."""
    return None if loss is None else pytest.approx(loss, rel=relative)


def test_one_device_and_eight_train_the_same_federation():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    numbers = ",".join(map(str, DEVICES))
    results = printed_json("tests.federated.multi_device", numbers, xla_flags=flags)
    for name in CASES:
        for aggregation in ("float32", "int32"):
            one, other = (results[f"{name} {aggregation} {devices}"] for devices in DEVICES)
            # A single device is a mesh of one, or none.
            assert (one["shards"], other["shards"]) == DEVICES
            for a, b in zip(one["evaluations"], other["evaluations"], strict=True):
                assert b["loss"] == close(a["loss"], 1e-5), name
                assert b["valid"]["ndcg@50"] == pytest.approx(a["valid"]["ndcg@50"], rel=1e-5), name
        digests = {results[f"{name} int32 {devices}"]["digest"] for devices in DEVICES}
        assert len(digests) == 1, name
        plain, fixed = (results[f"{name} {a} 1"]["evaluations"] for a in ("float32", "int32"))
        for a, b in zip(plain, fixed, strict=True):
            assert b["loss"] == close(a["loss"], 1e-4), name


def test_a_state_moves_from_one_to_four_devices_and_back(tmp_path):
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    results = printed_json("tests.federated.moving_bits", str(tmp_path), xla_flags=flags)
    assert results == {"shards": list(moving_bits.DEVICES), "restored": [True] * 4, "end": True}


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"--devices=64: this machine has"):
        client_mesh(64)
