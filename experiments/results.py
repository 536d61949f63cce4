"""Fills a results page with the tables and plots of finished commands.

    python -m experiments.results --workdir=runs/results --page=docs/results.md

A page is Markdown with places in it, each between two lines:

    <!-- from ku/table2.md -->
    <!-- end -->

What lies between them is replaced by the table (.md) in that file below --workdir, or by its
plot (.svg), which is copied beside the page into figures/. All else on the page stays: the
commands, and what the tables show, are written by hand. A page that names a file that is not
there is left as it is.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from absl import flags
from rich.console import Console

from experiments.comparison import write_text
from experiments.launch import launch
from fedvlr_jax.errors import InputError

FLAGS = flags.FLAGS
PLACE = re.compile(r"^<!-- from (\S+) -->\n(?:.*\n)*?<!-- end -->$", re.MULTILINE)


def filled(page: str, workdir: Path, figures: Path) -> str:
    """The page's text with every place filled; plots are copied into `figures`.

    Raises:
      InputError: a file that a place names is not there.
    """
    sources = [workdir / name for name in PLACE.findall(page)]
    for source in sources:
        if not source.is_file():
            raise InputError(f"--workdir={workdir}: the page asks for {source}, which is not there")

    def fill(place: re.Match[str]) -> str:
        source = workdir / place[1]
        content = source.read_text().strip()
        if source.suffix == ".svg":
            figures.mkdir(parents=True, exist_ok=True)
            name = place[1].replace("/", "-")
            shutil.copyfile(source, figures / name)
            content = f"![{source.stem}](figures/{name})"
        return f"<!-- from {place[1]} -->\n\n{content}\n\n<!-- end -->"

    return PLACE.sub(fill, page)


def main() -> None:
    page = Path(FLAGS.page)
    if not page.is_file():
        raise InputError(f"--page={page}: no such file; write one with places to fill")
    text = page.read_text()
    if not PLACE.search(text):
        raise InputError(f"--page={page}: has no line like <!-- from ku/table2.md -->")
    write_text(page, filled(text, Path(FLAGS.workdir), page.parent / "figures"))
    Console().print(f"{page}: {len(PLACE.findall(text))} places filled", highlight=False)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "runs/results", "Folder below which the results lie.")
    flags.DEFINE_string("page", "docs/results.md", "The page to fill.")
    launch(main, __doc__)
