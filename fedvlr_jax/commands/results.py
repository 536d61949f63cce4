"""Fills a results page with the tables and plots of finished commands, and runs these commands.

    fedvlr results --workdir=runs/results --page=docs/results.md --train

A page is Markdown with places, each between two lines:

    <!-- from ku/table2.md -->
    <!-- end -->

The command replaces the text between the two lines by the table (.md) or the plot (.svg) in that
file of --workdir. It copies plots into figures/ beside the page. It does not change the rest of the
page. Places whose folder (here ku) is not in --workdir stay too, so the command can fill one part
of the page. If a folder exists but lacks a file that the page names, the command ends with an error
and changes nothing.

With --train it first runs the commands on the page: the indented lines that start with `python -m
experiments.` and have --workdir=runs/results/FOLDER for the folder of a place. It replaces only
--workdir. A signal to stop reaches the command that runs, which saves; the same call continues it.
--only selects folders. If a command fails, it prints its
own error, the page does not change, and the exit status is that of the command.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from absl import flags
from rich.console import Console

from fedvlr_jax.commands.launching.faults import STOP_SIGNALS
from fedvlr_jax.commands.tables.tables import write_text
from fedvlr_jax.errors import InputError

FLAGS = flags.FLAGS
PLACE = re.compile(r"^<!-- from (\S+) -->\n(?:.*\n)*?<!-- end -->$", re.MULTILINE)
COMMAND = re.compile(
    r"^    python -m experiments\.(?P<name>\w+) (?P<flags>(?:.*\\\n)*.*)$", re.MULTILINE
)


class Command(NamedTuple):
    """A command of a page.

    Attributes:
      name: of `fedvlr NAME`. flags: as on the page, without --workdir. folder: the last part of
        --workdir, which places name.
    """

    name: str
    flags: list[str]
    folder: str


def commands_of(page: str) -> list[Command]:
    """The commands of `page` whose folder a place names, in order.

    Raises:
      InputError: no command of the page writes the folder of a place.
    """
    wanted = dict.fromkeys(Path(name).parts[0] for name in PLACE.findall(page))
    found = {}
    for match in COMMAND.finditer(page):
        flags = shlex.split(match["flags"].replace("\\\n", " "))
        folder = next((Path(f).name for f in flags if f.startswith("--workdir=")), "")
        own = [flag for flag in flags if not flag.startswith("--workdir=")]
        found[folder] = Command(match["name"], own, folder)
    for folder in wanted:
        if folder not in found:
            raise InputError(f"no command on the page has --workdir=.../{folder}")
    return [command for folder, command in found.items() if folder in wanted]


def chosen(commands: list[Command], only: list[str]) -> list[Command]:
    """The commands whose folder is in `only`, or all if it is empty."""
    known = [command.folder for command in commands]
    for folder in only:
        if folder not in known:
            raise InputError(f"--only={folder}: the page has {', '.join(known)}")
    return [command for command in commands if not only or command.folder in only]


def run(command: Command, workdir: Path) -> None:
    """Runs `command` with `workdir`/FOLDER; exits with its status if it fails."""
    flags = [*command.flags, f"--workdir={workdir / command.folder}"]
    started = time.monotonic()
    print(f"== {shlex.join(['fedvlr', command.name, *flags])}", flush=True)
    whole = [sys.executable, "-m", "fedvlr_jax", command.name, *flags]
    status = status_of(whole)
    if status != 0:
        print(f"== {command.folder}: ended with status {status}; repeat to continue", flush=True)
        raise SystemExit(status)
    print(f"== {command.folder}: {(time.monotonic() - started) / 60:.1f} minutes", flush=True)


def status_of(command: list[str]) -> int:
    """The exit status of a command in a process of its own; 128 + n if signal n ended it.

    The process gets the signals to stop that this process gets, each once, so it can save.
    """
    # In a session of its own, a Ctrl-C of the terminal does not reach the process a second time.
    with subprocess.Popen(command, start_new_session=True) as process:
        forward = lambda number, _: process.send_signal(number)
        before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
        try:
            status = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return status if status >= 0 else 128 - status


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
            f"--workdir={workdir}: has none of the folders that the page names, such as "
            f"{Path(names[0]).parent}; --train runs the commands that make them"
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
    if FLAGS.train:
        for command in chosen(commands_of(text), FLAGS.only):
            run(command, Path(FLAGS.workdir))
        # Somebody may have edited it in the meantime.
        text = page.read_text(encoding="utf-8")
    elif FLAGS.only:
        raise InputError("--only: needs --train")
    text, count = filled(text, Path(FLAGS.workdir), page.parent / "figures")
    write_text(page, text)
    places = len(PLACE.findall(text))
    Console().print(f"{page}: {count} of {places} places filled", highlight=False)
