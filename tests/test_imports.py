"""Who may import whom: rooms build on lower rooms only."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "fedvlr_jax"

# A module may import from rooms of a lower level, and from its own room.
LEVELS = {
    "errors": 0,
    "registry": 0,
    "machine": 0,
    "types": 0,
    "least_squares": 0,
    "sealing": 1,
    "trees": 1,
    "config": 1,
    "selection": 0.5,
    "cache": 2,
    "settings": 1,
    "data": 2,
    "models": 2,
    "fusion": 2,
    "uplink": 3,
    "reduce": 4,
    "attacks": 4,
    "evaluation": 3,
    "prepare": 3,
    "encoding": 3,
    "fleet": 3,
    "report": 3,
    "privacy": 4.5,
    "centralized": 4,
    "federated": 5,
    "checkpointing": 5,
    "simulation": 8,
    "memory": 9,
    "training": 9,
    "contracts": 10,
    "commands": 11,
    "__main__": 12,
}
# The same for the rooms within `commands/`; the commands themselves may import all of them.
COMMAND_LEVELS = {
    "launching": 0,
    "flags": 1,
    "one_run": 1,
    "members": 2,
    "tables": 3,
    "searching": 3,
}
ONLY_IN = {
    "orbax": {"checkpointing"},
    "flax": {"models", "fusion", "centralized"},
    "absl": {"commands", "benchmarks"},
    "matplotlib": {"report"},
    "rich": {"report", "commands", "benchmarks"},
    "pandas": {"data", "prepare", "commands", "fleet"},
    "polars": {"prepare", "benchmarks"},
    "tensorboardX": {"training"},
    "torch": {"encoding"},
    "PIL": {"encoding"},
    "dp_accounting": {"privacy"},
}
FILES = sorted(
    path
    for name in ("fedvlr_jax", "experiments", "benchmarks")
    for path in (ROOT / name).rglob("*.py")
)


def room(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "fedvlr_jax" else parts[0]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def test_imports_go_downwards():
    for path in FILES:
        for name in imported(path):
            parts = name.split(".")
            if parts[0] in ONLY_IN:
                assert room(path) in ONLY_IN[parts[0]], f"{path} imports {name}"
            if parts[0] in ("experiments", "benchmarks"):
                assert room(path) in ("experiments", "benchmarks"), f"{path} imports {name}"
            if (
                parts[:1] == ["fedvlr_jax"]
                and room(path) in LEVELS
                and parts[1:]
                and parts[1] in LEVELS
            ):
                lower = LEVELS[parts[1]] < LEVELS[room(path)]
                assert lower or parts[1] == room(path), f"{path} imports {name}"


def test_imports_within_the_commands_go_downwards():
    commands = PACKAGE / "commands"
    rooms = {path.name for path in commands.iterdir() if path.is_dir()} - {"__pycache__"}
    assert rooms == set(COMMAND_LEVELS)
    for path in commands.glob("*/*.py"):
        own = path.parent.name
        for name in imported(path):
            parts = name.split(".")
            if parts[:2] != ["fedvlr_jax", "commands"] or parts[2] == own:
                continue
            lower = COMMAND_LEVELS.get(parts[2], 9) < COMMAND_LEVELS[own]
            assert lower, f"{path} imports {name}"


def test_every_room_has_a_level():
    rooms = {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set(LEVELS)


def test_the_architecture_page_names_every_room():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`([a-z_]+)(?:\.py|/)`", page))
    assert set(LEVELS) - {"__main__"} <= named


def test_the_architecture_page_names_every_file_of_the_round():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    (section,) = re.findall(r"## The room of the round\n(.*?)\n## ", page, re.S)
    files = {path.name for path in (PACKAGE / "federated").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"`(\w+\.py)`", section)) == files
