"""Applies faults to the package, one at a time, and says which tests find them.

    python -m tests.mutations.run                    all of them, about a quarter of an hour
    python -m tests.mutations.run --only=gate        those whose name holds "gate"
    python -m tests.mutations.run --required         those marked as required
    python -m tests.mutations.run --passing          the tests are known to pass without a fault

Only tests of `make test` count. No file is changed (see `forked.py`). Without --passing, the same
tests must first pass without a fault. Exit status: 0 if at least 95 % are found and all required
ones; else 1.
"""

import argparse
import sys

from tests.mutations import forked
from tests.mutations.mutations import MUTATIONS

AT_LEAST = 0.95


def try_mutation(mutation):
    """The tests' outcome with the fault."""
    original = (forked.ROOT / mutation.file).read_text()
    assert original.count(mutation.old) == 1, f"{mutation.name}: its text is not there once"
    changed = original.replace(mutation.old, mutation.new)
    return forked.run_tests(mutation.tests, (mutation.file, changed))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", action="append", help="part of the names; may be given several times"
    )
    parser.add_argument("--required", action="store_true", help="those marked as required")
    parser.add_argument("--passing", action="store_true", help="the tests pass without a fault")
    arguments = parser.parse_args(argv)
    chosen = [m for m in MUTATIONS if any(part in m.name for part in arguments.only or [""])]
    if arguments.required:
        chosen = [m for m in chosen if m.required]
    if not chosen:
        parser.error(f"--only={arguments.only}: no mutation has such a name")
    forked.prepare()
    if not arguments.passing:
        tests = dict.fromkeys(test for mutation in chosen for test in mutation.tests)
        control = forked.run_tests(list(tests))
        assert not control.killed, f"without any fault fails {control.test or 'the whole run'}"
        print(f"{control.ran} tests pass without a fault", flush=True)
    survived = []
    for mutation in chosen:
        outcome = try_mutation(mutation)
        if not outcome.killed:
            survived.append(mutation)
        word = "found" if outcome.killed else "SURVIVED"
        test = outcome.test.removeprefix("tests/") or "-"
        print(f"{word:9} {outcome.seconds:6.1f} s  {mutation.name}: {test}", flush=True)
    found = len(chosen) - len(survived)
    print(f"{found} of {len(chosen)} found")
    return int(found < AT_LEAST * len(chosen) or any(m.required for m in survived))


if __name__ == "__main__":
    sys.exit(main())
