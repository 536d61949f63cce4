"""One device and eight train the same federation."""

import json
import os
import subprocess
import sys

import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.devices import client_mesh
from tests.conftest import ROOT
from tests.federated.multi_device import CASES

DEVICES = (1, 8)


@pytest.fixture(scope="module")
def results():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    printed = subprocess.run(
        [sys.executable, "-m", "tests.federated.multi_device", ",".join(map(str, DEVICES))],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert printed.returncode == 0, printed.stderr
    return json.loads(printed.stdout)


@pytest.mark.parametrize("name", CASES)
def test_clients_lie_on_all_devices(name, results):
    for devices in DEVICES:
        assert results[f"{name} float32 {devices}"]["shards"] == devices


@pytest.mark.parametrize("name", CASES)
def test_metrics_do_not_depend_on_the_devices(name, results):
    for aggregation in ("float32", "int32"):
        one = results[f"{name} {aggregation} 1"]["evaluations"]
        for devices in DEVICES[1:]:
            other = results[f"{name} {aggregation} {devices}"]["evaluations"]
            for a, b in zip(one, other, strict=True):
                assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
                assert b["valid"]["ndcg@50"] == pytest.approx(a["valid"]["ndcg@50"], rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_fixed_point_sums_are_equal_to_the_bit(name, results):
    digests = {results[f"{name} int32 {devices}"]["digest"] for devices in DEVICES}
    assert len(digests) == 1


@pytest.mark.parametrize("name", CASES)
def test_fixed_point_changes_little(name, results):
    plain, fixed = (results[f"{name} {a} 1"]["evaluations"] for a in ("float32", "int32"))
    for a, b in zip(plain, fixed, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"--devices=64: this machine has"):
        client_mesh(64)
    assert Config.from_flat(devices=2).run.devices == 2
