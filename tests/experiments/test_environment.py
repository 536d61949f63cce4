"""Homes, caches, clusters and platforms that are there in part, or not at all."""

import ast
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from fedvlr_jax.commands.launching import config_flags, launch
from fedvlr_jax.commands.launching.faults import missing_platform
from fedvlr_jax.commands.launching.processes import missing_variable
from fedvlr_jax.config import Config, expanded
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.store import ClientStore
from tests import programs
from tests.conftest import ROOT
from tests.experiments.commands import SMALL, refused

PATHS = {"workdir", "data_root", "store_dir", "trace", "export", "json", "page", "tensorboard"}
PATHS |= {"input", "output", "titles", "images", "folder", "file"}


def test_paths_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = Config.from_flat(workdir="~/runs", data_root="~", store_dir="./~")
    assert config.run.workdir == "/home/someone/runs" and config.data.data_root == "/home/someone"
    assert config.run.store_dir == "./~"
    assert config_flags._PathParser().parse("~/x.csv") == "/home/someone/x.csv"
    assert expanded("") == "" and expanded("a~") == "a~"


def test_a_home_that_is_not_known_is_named():
    expected = r"^workdir=~nobody1/x: ~nobody1 has no known home folder;"
    with pytest.raises(InputError, match=expected):
        Config.from_flat(workdir="~nobody1/x")


def test_every_flag_of_a_path_is_one():
    fields = {
        f.name for group in config_flags.flag_groups().values() for f in group if f.metadata["path"]
    }
    assert fields == {"workdir", "data_root", "store_dir", "trace"}
    for path in [*ROOT.glob("fedvlr_jax/commands/*.py"), *ROOT.glob("benchmarks/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and "DEFINE" in ast.unparse(node.func):
                name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
                assert name not in PATHS, f"{path}: --{name}: use define_path"


@pytest.fixture
def cached_in(monkeypatch):
    """What becomes of the cache folder; JAX is left as it is."""
    changes = {}
    monkeypatch.setattr(jax.config, "update", changes.__setitem__)

    def use(by=launch.use_compilation_cache, **environment):
        for name in ("FEDVLR_CACHE_DIR", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        changes.clear()
        by()
        return changes.get("jax_compilation_cache_dir")

    return use


def test_compiled_programs_are_kept_where_they_can_be(cached_in, tmp_path, capsys):
    home = str(tmp_path)
    assert cached_in(HOME=home) == f"{home}/.cache/fedvlr_jax"
    assert cached_in(HOME=home, XDG_CACHE_HOME=f"{home}/c") == f"{home}/c/fedvlr_jax"
    assert cached_in(HOME=home, FEDVLR_CACHE_DIR="~/mine") == f"{home}/mine"
    assert cached_in(HOME=home, FEDVLR_CACHE_DIR="") is None
    assert capsys.readouterr().err == ""


def test_the_tests_use_a_subfolder_of_the_same_folder(cached_in, tmp_path):
    home, by = str(tmp_path), lambda: programs.store_programs(programs.folder_of_programs())
    assert cached_in(by, HOME=home) == f"{home}/.cache/fedvlr_jax/tests"
    assert cached_in(by, HOME=home, XDG_CACHE_HOME=f"{home}/c") == f"{home}/c/fedvlr_jax/tests"
    assert cached_in(by, HOME=home, FEDVLR_CACHE_DIR="") is None


def test_without_a_place_for_them_one_line_says_so(cached_in, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    assert cached_in(FEDVLR_CACHE_DIR=str(tmp_path / "file/cache")) is None
    said = capsys.readouterr().err
    assert said.startswith("note: compiled programs are not stored (") and "Not a directory" in said
    assert said.count("\n") == 1

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", homeless)
    assert cached_in() is None
    assert "not stored (Could not determine home directory.)" in capsys.readouterr().err


SLURM = dict(SLURM_JOB_ID="5", SLURM_STEP_NODELIST="a", SLURM_NTASKS="2", SLURM_PROCID="0")
SLURM |= dict(SLURM_LOCALID="0")
MPI = dict(OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_LOCAL_RANK="0")
MPI |= dict(OMPI_MCA_orte_hnp_uri="1531576320.0;tcp://10.96.0.1:34911")


@pytest.mark.parametrize(
    ("name", "variables"), [("Slurm", SLURM), ("Open MPI", MPI)], ids=["slurm", "mpi"]
)
def test_a_cluster_in_part_names_what_it_lacks(name, variables):
    assert missing_variable(variables) == ""
    for lacking in variables:
        rest = {n: value for n, value in variables.items() if n != lacking}
        assert missing_variable(rest).startswith(f"{name} without {lacking}: ")


def test_other_clusters_in_part():
    assert missing_variable({"HOSTNAME": "a"}) == ""
    pod = {"TPU_WORKER_HOSTNAMES": "a,b"}
    assert missing_variable(pod).startswith("TPU pod without TPU_WORKER_ID: ")
    kubernetes = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "a"}
    indexed = missing_variable(kubernetes)
    assert indexed.startswith("Kubernetes without JOB_COMPLETION_INDEX: ")


def test_a_platform_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    assert missing_platform() == ""
    environment = programs.environment_of(JAX_PLATFORMS="nonsense")
    command = [sys.executable, "-m", "experiments.train", *SMALL, "--workdir=w"]
    line = refused(
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    )
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    assert line.startswith("error: JAX_PLATFORMS=nonsense: ") and "set it to cpu" in line

    def no_plugin():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", no_plugin)
    assert "no such device is here" in missing_platform()


def test_files_of_rows_need_a_system_that_reads_at_a_place(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "preadv")
    with pytest.raises(InputError, match=r"store=disk: this system .* use store=host"):
        ClientStore({"x": jax.ShapeDtypeStruct((2,), np.float32)}, 3, str(tmp_path))
