"""The tutorials: committed with their outputs, light, and their code runs."""

import json
import pathlib
import re

import matplotlib
import pytest

from fedvlr_jax import __main__

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
HOOKS = (ROOT / "docs" / "hooks.py").read_text()
MOST_BYTES = 100_000


def code_cells(path):
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_every_notebook_is_a_page_of_the_site():
    (listed,) = re.findall(r"TUTORIALS = \((.*?)\n\)", HOOKS, re.S)
    assert sorted(re.findall(r'"(\w+)"', listed)) == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_light_and_has_its_outputs(path):
    text, cells = path.read_text(), code_cells(path)
    assert len(text) < MOST_BYTES
    # From top to bottom, at one go.
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and {output["output_type"] for output in outputs} <= {"stream", "display_data"}
    assert not re.search(r"/home/|/root/|/tmp/|/work/|Traceback", text)
    for cell in cells:
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            assert cell["metadata"]["alt"], "a picture without a text for those who do not see it"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.slow
def test_the_code_of_a_notebook_runs(path, tmp_path, monkeypatch):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = "\n".join("".join(cell["source"]) for cell in code_cells(path))
    exec(compile(code, path.name, "exec"), {"__name__": path.stem})


def test_the_package_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fedvlr_jax", "--version"])
    __main__.main()
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)
