"""Mutation testing: changes each expression of three rooms, and counts the changes that tests find.

    python -m tests.mutations.systematic                       all mutants, about 40 CPU minutes
    python -m tests.mutations.systematic --only=reduce         files whose path holds "reduce"
    python -m tests.mutations.systematic --share=0.2 --seed=1  a random fifth of them
    python -m tests.mutations.systematic --list                prints the mutants, runs nothing

`operators.py` says what a mutant is. A mutant meets the tests of its room that call its function,
quickest first, up to the first failure. One that exceeds its time limit counts as killed. Results
are kept in `--results`; the next call runs only mutants without a result, and survivors again if a
test changed. `equivalent.py` lists mutants that no test can kill; they do not count.

Why not a tool: mutmut does not change code outside functions, nor properties, and forks after the
tests have started JAX's threads. cosmic-ray starts a process for each mutant, which imports JAX
again. Neither changes calls such as `jnp.sum`, `jnp.where` and `jnp.maximum`.

Exit status: 0 if at least 85 % are killed in each room; else 1.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import pathlib
import random
import sys
from collections.abc import Callable
from typing import NamedTuple, TextIO

from tests.mutations.equivalent import EQUIVALENT
from tests.mutations.operators import Mutant, mutants

ROOT = pathlib.Path(__file__).parents[2]
AT_LEAST = 0.85
# Files of a room, and its own tests, which must find the mutants.
ROOMS = {
    "uplink": ("fedvlr_jax/uplink/*.py", "tests/uplink"),
    "reduce": ("fedvlr_jax/reduce/*.py", "tests/reduce"),
    "metrics": ("fedvlr_jax/evaluation/metrics.py", "tests/evaluation/test_metrics.py"),
}


class Result(NamedTuple):
    """Of one mutant.

    Attributes:
      mutant: its key. source: digest of the unchanged file. tests: digest of all tests.
      killed: whether a test failed or the run did not end. by: that test.
    """

    mutant: list
    source: str
    tests: str
    killed: bool
    by: str


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def all_mutants(only: list[str]) -> dict[str, list[Mutant]]:
    """The mutants of each room; `only`: parts of the paths of the files."""
    found = {}
    for room, (pattern, _) in ROOMS.items():
        files = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob(pattern))]
        wanted = [file for file in files if any(part in file for part in only or [""])]
        own = [mutant for file in wanted for mutant in mutants((ROOT / file).read_text(), file)]
        if own:
            found[room] = own
    return found


def interval(killed: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, share = 1.96, killed / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = share * (1 - share) / count + z * z / (4 * count * count)
    half = z * math.sqrt(spread) / (1 + z * z / count)
    return middle - half, middle + half


class Store:
    """Results in a file of JSON lines; a later line replaces an earlier one."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._sources = {}
        self._tests = digest(*(p.read_text() for p in sorted((ROOT / "tests").rglob("*.py"))))
        self._held = {}
        self.read()

    def read(self) -> None:
        """Reads what is in the file."""
        if self._path.is_file():
            for line in self._path.read_text().splitlines():
                result = Result(**json.loads(line))
                self._held[tuple(result.mutant)] = result

    def source(self, file: str) -> str:
        if file not in self._sources:
            self._sources[file] = digest((ROOT / file).read_text())
        return self._sources[file]

    def of(self, mutant: Mutant) -> Result | None:
        """The result that still holds."""
        result = self._held.get(mutant.key)
        if result is None or result.source != self.source(mutant.file):
            return None
        return result if result.killed or result.tests == self._tests else None

    def add(self, mutant: Mutant, killed: bool, by: str) -> Result:
        result = Result(list(mutant.key), self.source(mutant.file), self._tests, killed, by)
        self._held[mutant.key] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(result._asdict()) + "\n")
        return result


def run_missing(rooms: dict[str, list[Mutant]], store: Store) -> None:
    """Runs the mutants without a result."""
    missing = {
        room: [m for m in own if m.key not in EQUIVALENT and store.of(m) is None]
        for room, own in rooms.items()
    }
    if not any(missing.values()):
        return
    # Here, and not at the top: a list of mutants needs no JAX.
    from tests.mutations import forked

    forked.prepare()
    console = os.fdopen(os.dup(1), "w", buffering=1)

    def keep(mutant: Mutant, outcome: forked.Outcome) -> None:
        by = outcome.test or ("time limit or crash" if outcome.killed else "")
        store.add(mutant, outcome.killed, by)
        word = "killed" if outcome.killed else "SURVIVED"
        print(
            f"{word:8} {outcome.seconds:5.1f} s  {mutant.file}:{mutant.line}: {mutant.new}",
            file=console,
        )

    for room, own in missing.items():
        if own:
            run_room(room, own, keep, console)
    store.read()


def run_room(room: str, own: list[Mutant], keep: Callable, console: TextIO) -> None:
    """Calls `keep(mutant, outcome)` for each of the mutants of one room, in a child process."""
    from tests.mutations import forked

    tests, files = ROOMS[room][1], sorted({mutant.file for mutant in own})
    texts = {file: (ROOT / file).read_text() for file in files}
    inside = [m for m in own if forked.can_graft(texts[m.file], m.line)]
    outside = [m for m in own if m not in inside]
    for mutant in outside:
        change = mutant.file, mutant.source
        keep(mutant, forked.run_tests([tests], change))

    def use(collected: forked.Collected) -> None:
        called = collected.called
        print(f"{room}: {len(called)} tests pass without a change", file=console)
        for mutant in inside:
            chosen = tests_of(mutant, called)
            if chosen:
                limit = int(30 + 10 * sum(called[test].seconds for test in chosen))
                outcome = collected.run(chosen, (mutant.file, mutant.source), limit)
            else:
                outcome = forked.Outcome("", 0, 0.0)
            keep(mutant, outcome)

    if inside:
        forked.with_collected([tests], files, use)


def tests_of(mutant: Mutant, called: dict) -> list[str]:
    """The tests that call the mutant's function, or any of the file's, quickest first."""
    calls = lambda file, line: file == mutant.file and mutant.function in (0, line)
    own = [t for t, value in called.items() if any(calls(*place) for place in value.functions)]
    return sorted(own, key=lambda test: called[test].seconds)


def report(rooms: dict[str, list[Mutant]], store: Store, sampled: bool) -> bool:
    """Prints the shares and the survivors; whether each room reaches AT_LEAST."""
    shares = []
    print(ROW.format("", "mutants", "equivalent", "killed", "share", ""))
    for room, own in rooms.items():
        for file in sorted({mutant.file for mutant in own}):
            print_share(file, [m for m in own if m.file == file], store, sampled)
        shares.append(print_share(room, own, store, sampled))
    for mutant in itertools.chain(*rooms.values()):
        result = store.of(mutant)
        if mutant.key not in EQUIVALENT and not (result and result.killed):
            print(f"\n{mutant.file}:{mutant.line}\n- {mutant.old}\n+ {mutant.new}")
    return all(share >= AT_LEAST for share in shares)


ROW = "{:40} {:>8} {:>10} {:>8} {:>8}  {}"


def print_share(name: str, own: list[Mutant], store: Store, sampled: bool) -> float:
    """Prints one row, and returns the share of the mutants that are killed."""
    counted = [m for m in own if m.key not in EQUIVALENT]
    killed = sum(1 for m in counted if (result := store.of(m)) and result.killed)
    share, bounds = 1.0, ""
    if counted:
        share = killed / len(counted)
        bounds = "95 % interval {:.1%} to {:.1%}".format(*interval(killed, len(counted)))
    print(
        ROW.format(
            name, len(own), len(own) - len(counted), killed, f"{share:.1%}", bounds * sampled
        )
    )
    return share


def main(argv=None) -> int:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    add = parser.add_argument
    add("--only", action="append", help="part of the paths of files; may be given several times")
    add("--share", type=float, default=1.0, help="fraction of the mutants of each room")
    add("--seed", type=int, default=0, help="of the sample")
    add("--results", type=pathlib.Path, default=ROOT / "build" / "mutants.jsonl")
    add("--list", action="store_true", help="print the mutants and run nothing")
    arguments = parser.parse_args(argv)
    rooms = all_mutants(arguments.only)
    if not rooms:
        parser.error(f"--only={arguments.only}: no such file")
    if not 0 < arguments.share <= 1:
        parser.error(f"--share={arguments.share} is not above 0 and at most 1")
    if arguments.share < 1:
        draw = random.Random(arguments.seed).sample
        rooms = {
            room: draw(own, math.ceil(arguments.share * len(own))) for room, own in rooms.items()
        }
    if arguments.list:
        for mutant in itertools.chain(*rooms.values()):
            print(f"{mutant.file}:{mutant.line}\n- {mutant.old}\n+ {mutant.new}")
        return 0
    store = Store(arguments.results)
    run_missing(rooms, store)
    return int(not report(rooms, store, arguments.share < 1))


if __name__ == "__main__":
    sys.exit(main())
