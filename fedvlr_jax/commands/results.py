"""Fills a results page with the tables and plots of finished commands.

    fedvlr results --workdir=runs/results --page=docs/results.md

A page is Markdown with places, each between two lines:

    <!-- from ku/table2.md -->
    <!-- end -->

The command replaces the text between the two lines by the table (.md) or the plot (.svg) in that
file of --workdir. It copies plots into figures/ beside the page. The rest of the page is written by
hand and stays. Places whose folder (here ku) is not in --workdir stay too, so that one part of the
page can be filled again alone. If a folder is there but lacks a file that the page names, the
command refuses and changes nothing.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from absl import flags
from rich.console import Console

from fedvlr_jax.commands.shared.comparison import write_text
from fedvlr_jax.errors import InputError

FLAGS = flags.FLAGS
PLACE = re.compile(r"^<!-- from (\S+) -->\n(?:.*\n)*?<!-- end -->$", re.MULTILINE)


def filled(page: str, workdir: Path, figures: Path) -> tuple[str, int]:
    """(the page with the places of the folders in `workdir` filled, the number of these places).

    Copies plots into `figures`.

    Raises:
      InputError: no folder that the page names exists, or one lacks a file that the page names.
    """
    names = PLACE.findall(page)
    present = [name for name in names if (workdir / name).parent.is_dir()]
    if not present:
        raise InputError(
            f"--workdir={workdir}: has no folder that the page names, e.g. of {names[0]}"
        )
    for name in present:
        if not (workdir / name).is_file():
            raise InputError(
                f"--workdir={workdir}: the page names {workdir / name}, which does not exist"
            )

    def fill(place: re.Match[str]) -> str:
        if place[1] not in present:
            return place[0]
        source = workdir / place[1]
        content = source.read_text(encoding="utf-8").strip()
        if source.suffix == ".svg":
            figures.mkdir(parents=True, exist_ok=True)
            name = place[1].replace("/", "-")
            shutil.copyfile(source, figures / name)
            content = f"![{source.stem}](figures/{name})"
        return f"<!-- from {place[1]} -->\n\n{content}\n\n<!-- end -->"

    return PLACE.sub(fill, page), len(present)


def main() -> None:
    page = Path(FLAGS.page)
    if not page.is_file():
        raise InputError(f"--page={page}: no such file; give a page with places to fill")
    text = page.read_text(encoding="utf-8")
    if not PLACE.search(text):
        raise InputError(f"--page={page}: has no line like <!-- from ku/table2.md -->")
    text, count = filled(text, Path(FLAGS.workdir), page.parent / "figures")
    write_text(page, text)
    places = len(PLACE.findall(text))
    Console().print(f"{page}: {count} of {places} places filled", highlight=False)
