"""Executes the tutorials and keeps their outputs: python docs/notebooks.py [NAME ...]."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).parent / "tutorials"
# Images and text only; times and the state of widgets would change with every execution.
KEPT = ("text/plain", "image/png")
SECONDS = 600


def execute(path: Path) -> None:
    """Runs a notebook in an empty folder, and writes it with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            resources={"metadata": {"path": folder}},
            kernel_name="python3",
        )
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := _kept(output))]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


def _kept(output: Any) -> Any:
    """The output without what is neither text nor a picture; None for a warning on stderr."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    data = {kind: output.data[kind] for kind in KEPT if kind in output.data}
    if "image/png" in data:
        data.pop("text/plain", None)
    output.data = data
    return output


if __name__ == "__main__":
    # The kernel runs in another folder, and imports the package from here.
    os.environ["PYTHONPATH"] = str(TUTORIALS.parents[1])
    names = sys.argv[1:] or sorted(path.stem for path in TUTORIALS.glob("*.ipynb"))
    for name in names:
        execute(TUTORIALS / f"{name}.ipynb")
        print(name, flush=True)
