"""Every command and program in the README runs, as printed there but on smaller data."""

import pathlib
import re
import subprocess

import pytest

from fedvlr_jax.config import Config

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
SMALLER = ["--synthetic_users=210", "--synthetic_items=120", "--rounds=4"]
MAKE = [line for kind, text in BLOCKS if kind == "" for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    """Looks like a checkout, but what runs in it leaves nothing in the real one."""
    outer = tmp_path_factory.mktemp("readme")
    checkout = outer / "checkout"
    checkout.mkdir()
    for name in ("fedvlr_jax", "experiments", "benchmarks"):
        (checkout / name).symlink_to(ROOT / name)
    return checkout


def test_readme_has_what_is_tested():
    assert len(COMMANDS) >= 5 and len(PROGRAMS) == 1 and MAKE == ["make demo", "make test"]


@pytest.mark.parametrize("line", MAKE)
def test_make_targets(line):
    subprocess.run([*line.split(), "-n"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.long
@pytest.mark.slow
def test_commands(folder, programs):
    """In the README's order, for a later one may use what an earlier one wrote."""
    for line in COMMANDS:
        python, module_flag, module, *arguments = line.split()
        assert (python, module_flag) == ("python", "-m")
        if module in ("experiments.train", "experiments.sweep"):
            arguments += SMALLER
        result = programs.run(module, *arguments, cwd=folder)
        assert result.returncode == 0, result.stderr
    assert (folder / "runs/first/report.html").stat().st_size > 50_000
    exported = (folder / "runs/device/recommendations.csv").read_text()
    assert exported.startswith("user,rank,item,score,tie\n")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.slow
def test_programs(program, capsys):
    data = 'load_dataset("synthetic"'
    assert program.count(data) == 1 and len(program.splitlines()) <= 12
    exec(program.replace(data, f'{data}, synthetic={{"users": 60, "items": 80}}'), {})
    assert "user 7 weighs" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_are_named_exist(page):
    sources = [*(ROOT / "fedvlr_jax/commands").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    code = "\n".join(source.read_text() for source in sources)
    known = set(Config().flat) | set(re.findall(r"(?:DEFINE_\w+|define_path)\(\s*\"(\w+)\"", code))
    known |= {"help", "flagfile", "preset", "version"}
    # Flags of other programs: srun, TensorBoard, XLA.
    known |= {"ntasks", "logdir"}
    named = set(re.findall(r"(?<![\w-])--(\w+)", page.read_text()))
    named = {name for name in named if not name.startswith("xla_")}
    assert named <= known, named - known
