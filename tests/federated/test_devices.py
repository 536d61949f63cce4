"""One device and eight train the same federation."""

import jax
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_state_moves_from_one_to_four_devices_and_back(tmp_path):
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    results = printed_json("tests.federated.moving_bits", str(tmp_path), xla_flags=flags)
    assert results == {"shards": list(moving_bits.DEVICES), "restored": [True] * 4, "end": True}


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"--devices=64: this machine has"):
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
        with pytest.raises(InputError, match=f"--devices={asked}: {wrong}"):
            client_mesh(asked)


def test_several_processes_use_all_of_their_devices(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [0, 1, 2])
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    for asked in (0, 2):
        with pytest.raises(InputError, match=rf"--devices={asked}: 3 processes have 3 devices"):
            client_mesh(asked)
