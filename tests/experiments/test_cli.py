"""One name for every command, and what a built wheel leaves in an empty folder."""

import os
import runpy
import shutil
import subprocess
import sys

import pytest

from fedvlr_jax.commands import cli
from fedvlr_jax.commands.launching import config_flags
from fedvlr_jax.errors import InputError
from tests.conftest import ROOT
from tests.experiments.commands import SMALL


def test_every_module_with_a_main_part_is_a_command():
    modules = {p.stem for p in (ROOT / "experiments").glob("*.py")}
    assert set(cli.COMMANDS) == modules - {"__init__", "__main__"}


def test_a_launcher_hides_no_module_of_the_standard_library():
    """`python experiments/NAME.py` puts the folder of the launchers before the library."""
    launchers = {p.stem for p in (ROOT / "experiments").glob("*.py")} - {"__init__", "__main__"}
    assert not launchers & sys.stdlib_module_names


def test_a_launcher_runs_by_its_path(tmp_path):
    """It imports the package that lies beside its folder, from any working directory."""
    for folder in ("experiments", "fedvlr_jax/commands", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "experiments/watch.py", tmp_path / "experiments")
    (tmp_path / "fedvlr_jax/commands/cli.py").write_text("run = print")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "../experiments/watch.py"]
    where = {"cwd": tmp_path / "elsewhere", "env": environment}
    done = subprocess.run(command, **where, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "watch\n"), done.stderr


def test_the_launchers_are_alike():
    one = (ROOT / "experiments/train.py").read_text()
    for name in cli.COMMANDS:
        assert (ROOT / f"experiments/{name}.py").read_text() == one.replace("train", name)


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedvlr", *arguments])
    try:
        cli.main()
        status = 0
    except SystemExit as left:
        status = left.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_list_of_commands(monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, "--help")
    assert status == 0 and all(f"\n  {name} " in out for name in cli.COMMANDS)
    assert max(map(len, out.splitlines())) <= 96


def test_the_folder_of_launchers_lists_the_commands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["experiments"])
    runpy.run_module("experiments", run_name="__main__")
    assert capsys.readouterr().out == call(monkeypatch, capsys, "--help")[1]


def test_an_earlier_name_runs_the_command(monkeypatch, capsys):
    assert not set(cli.ALIASES) & set(cli.COMMANDS)
    ran = []
    monkeypatch.setattr(cli, "run", ran.append)
    assert call(monkeypatch, capsys, "inspect", "--workdir=w")[0] == 0 and ran == ["show"]
    assert sys.argv == ["fedvlr show", "--workdir=w"]


def test_an_unknown_command_is_one_line(monkeypatch, capsys):
    status, _, err = call(monkeypatch, capsys, "trian")
    assert status == 2
    assert err == "error: 'trian': no such command; did you mean train?; fedvlr --help lists them\n"


def test_a_preset_by_its_name():
    (preset,) = {config_flags.with_preset("--preset=closed")}
    assert preset.startswith("--flagfile=") and preset.endswith("closed.flags")
    assert config_flags.with_preset("--rounds=3") == "--rounds=3"
    for wrong in ("--preset=magic", "--preset", "--preset="):
        with pytest.raises(InputError, match="no such preset; give one of closed, ku"):
            config_flags.with_preset(wrong)


@pytest.mark.slow
def test_a_wheel_trains_in_another_folder(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={tmp_path}"]
    copy = tmp_path / "source"
    for name in ("fedvlr_jax",):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    subprocess.run([*built, str(copy)], check=True, timeout=3600)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", f"--target={site}", str(wheel)], check=True)
    run_cli = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from fedvlr_jax.commands.cli import main"
    )
    program = f"{run_cli}; main()"
    flags = [*SMALL, "--rounds=2", "--preset=tuned", "--baselines=false", "--workdir=w"]
    command = [sys.executable, "-c", program, str(site), "train", *flags]
    empty = tmp_path / "empty"
    empty.mkdir()
    result = subprocess.run(command, cwd=empty, capture_output=True, text=True, timeout=3600)
    assert result.returncode == 0, result.stderr
    assert (empty / "w/report.html").exists()
    assert (site / "bin/fedvlr").exists() and (site / "fedvlr_jax/py.typed").exists()


def test_a_group_of_flags_that_does_not_exist():
    with pytest.raises(ValueError, match="no such group of flags: start"):
        config_flags.define_config_flags("data", "start")
