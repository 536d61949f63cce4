"""Runs tests on changed modules, each change in a forked process.

The parent imports JAX and the other libraries once and never starts a JAX backend: a process
whose backend runs threads cannot be forked. There are two ways to a changed module:

- `run_tests`: the child imports the package and the tests, with the changed text in place of a
  file. Right for every change.
- `Collected`: a child imports and collects first, then forks for each change, and puts the changed
  code in place. Several times as fast; right for changes of functions and constants.
"""

from __future__ import annotations

import ast
import builtins
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import resource
import signal
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.programs import QUICK_COMPILATION

# Before JAX and NumPy start: as in tests/conftest.py, and one thread for each product.
os.environ.setdefault("XLA_FLAGS", QUICK_COMPILATION)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import hypothesis
import jax
import pytest
from jax._src.xla_bridge import backends_are_initialized

from tests.mutations.operators import first_line

ROOT = pathlib.Path(__file__).parents[2]
# What the package and its tests import, apart from themselves.
LIBRARIES = ("flax.linen", "optax", "orbax.checkpoint", "scipy.stats", "pandas", "polars", "jinja2")
# Limits of a child that has none of its own, in seconds: of the processor, and in all.
MOST_SECONDS, MOST_WAIT = 600, 3600
OPTIONS = (
    *("-q", "-m", "not slow", "-p", "no:cacheprovider", f"--rootdir={ROOT}"),
    *("-W", "ignore:Module already imported"),
)


class Outcome(NamedTuple):
    """What a run of tests showed.

    Attributes:
      test: the first that failed, or "".
      ran: how many ran.
      seconds: of the processor.
      ended: whether the process came to its end; if not, it was stopped or crashed.
    """

    test: str
    ran: int
    seconds: float
    ended: bool = True

    @property
    def killed(self) -> bool:
        return bool(self.test) or not self.ended


def prepare() -> None:
    """Imports the libraries, for all children."""
    for name in LIBRARIES:
        importlib.import_module(name)
    # The same examples every time; a failure needs no smaller example.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile(
        "mutations", database=None, derandomize=True, phases=phases, deadline=None
    )
    hypothesis.settings.load_profile("mutations")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.chdir(ROOT)
    # No installed package before the tree.
    sys.path[:] = [str(ROOT)] + [p for p in sys.path if p not in ("", str(ROOT))]
    _freeze()


def _freeze() -> None:
    """Collections of garbage in the children do not touch, and so copy, what is here."""
    gc.collect()
    gc.freeze()


def run_tests(
    tests: Sequence[str], change: tuple[str, str] | None = None, *, most_seconds: int = MOST_SECONDS
) -> Outcome:
    """Runs tests up to the first failure, those marked slow excepted.

    Args:
      tests: node ids.
      change: (file relative to the root, its text in place of that on the disk).
      most_seconds: of the processor.
    """

    def work() -> list:
        if change:
            sys.meta_path.insert(0, _Changed(*change))
        first = _FirstFailure()
        pytest.main([*OPTIONS, "-x", *tests], plugins=[first])
        return [first.name, first.ran]

    outcome = _outcome(in_child(work, most_seconds))
    assert outcome.test or outcome.ran or not outcome.ended, f"no test ran of {tests}"
    return outcome


def _outcome(found: tuple[Any, float]) -> Outcome:
    result, seconds = found
    name, ran = result or ("", 0)
    return Outcome(name, ran, seconds, ended=result is not None)


def in_child(work: Callable[[], Any], most_seconds: int | None) -> tuple[Any, float]:
    """(what `work` returned, as JSON has it, or None if it did not end; processor seconds).

    Args:
      most_seconds: of the processor; such a child is also stopped after MOST_WAIT. None: no limit.

    Raises RuntimeError with the traceback of an exception in `work`.
    """
    assert not backends_are_initialized(), "a JAX backend runs: an import of the tests computes"
    read, write = os.pipe()
    with warnings.catch_warnings():
        # The threads of the libraries sleep, and no backend runs.
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        _be_child(work, most_seconds, read, write)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    usage = os.wait4(child, 0)[2]
    answer = json.loads(text) if text else {"result": None}
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["result"], usage.ru_utime + usage.ru_stime


def _be_child(work: Callable[[], Any], most_seconds: int | None, read: int, write: int) -> None:
    try:
        os.close(read)
        if most_seconds is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (most_seconds, most_seconds + 5))
            signal.alarm(MOST_WAIT)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        try:
            answer = {"result": work()}
        except Exception:
            answer = {"error": traceback.format_exc()}
        with os.fdopen(write, "w") as pipe:
            json.dump(answer, pipe)
    finally:
        os._exit(0)


class _Changed(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Finds one module, with another text."""

    def __init__(self, file: str, text: str):
        super().__init__(_module_name(file), str(ROOT / file))
        self._text = text

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def get_code(self, fullname):
        return compile(self._text, self.path, "exec")


def _module_name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


class _FirstFailure:
    """A pytest plugin that remembers the test that failed first, and how many ran."""

    def __init__(self):
        self.name, self.ran = "", 0

    def pytest_collection(self):
        # After tests/conftest.py: the programs of a changed module are not kept.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)

    def pytest_runtest_logreport(self, report):
        self.ran += report.when == "call" and not report.skipped
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and not self.name:
            self.name = report.nodeid


class Called(NamedTuple):
    """Of one test: processor seconds, and the functions that it called as (file, first line)."""

    seconds: float
    functions: list


def with_collected(
    tests: Sequence[str], files: Sequence[str], use: Callable[[Collected], None]
) -> None:
    """Collects tests that are not slow in a child, and there calls `use`."""

    def work() -> bool:
        failed = _FirstFailure()
        loop = _Loop(files, use)
        pytest.main([*OPTIONS, "-s", *tests], plugins=[failed, loop])
        assert not failed.name, f"cannot collect {failed.name}"
        if loop.error:
            raise RuntimeError(loop.error)
        return True

    ended, _ = in_child(work, None)
    assert ended, "the process that collected the tests was stopped"


class _Loop:
    """A pytest plugin that calls `use` in place of running the tests."""

    def __init__(self, files: Sequence[str], use: Callable[[Collected], None]):
        self._files, self._use = files, use
        self.error = ""

    def pytest_runtestloop(self, session):
        try:
            if not session.testsfailed:
                _freeze()
                self._use(Collected(session.items, self._files))
        except Exception:
            self.error = traceback.format_exc()
        return True


class Collected:
    """Tests that this process has imported, to be run in its children."""

    def __init__(self, items: Sequence[pytest.Item], files: Sequence[str]):
        self._items = {item.nodeid: item for item in items}
        self.called = self._functions_called(files)

    def run(self, tests: Sequence[str], change: tuple[str, str], most_seconds: int) -> Outcome:
        """As `run_tests`, for a change in a line that `can_graft`."""

        def work() -> list:
            _graft(*change)
            return self._first_failure(tests)

        return _outcome(in_child(work, most_seconds))

    def _first_failure(self, tests: Sequence[str], after: Callable = lambda item: None) -> list:
        items = [self._items[test] for test in tests]
        first = _FirstFailure()
        for number, item in enumerate(items):
            following = items[number + 1] if number + 1 < len(items) else None
            item.config.pluginmanager.register(first, "first")
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            item.config.pluginmanager.unregister(first)
            after(item)
            if first.name:
                break
        return [first.name, first.ran]

    def _functions_called(self, files: Sequence[str]) -> dict[str, Called]:
        """Of each test, which functions of `files` it calls. All tests must pass."""
        functions: set[tuple[str, int]] = set()
        called: dict[str, Called] = {}
        began = [0.0]

        def keep(item):
            seconds = time.process_time() - began[0]
            called[item.nodeid] = Called(round(seconds, 3), sorted(functions))
            functions.clear()
            began[0] = time.process_time()

        def work() -> list:
            builtins.__dict__[MARK] = lambda file, line: functions.add((file, line))
            for file in files:
                _graft(file, _marked((ROOT / file).read_text(), file))
            began[0] = time.process_time()
            failed, _ = self._first_failure(list(self._items), keep)
            return [failed, called]

        result, _ = in_child(work, MOST_WAIT)
        failed, found = result or ("the whole run", {})
        assert found and not failed, f"without a change fails {failed}"
        return {
            test: Called(seconds, [tuple(place) for place in places])
            for test, (seconds, places) in found.items()
        }


def _graft(file: str, text: str) -> None:
    """Puts functions, methods and constants of `text` in place of those of the module."""
    module = sys.modules.get(_module_name(file))
    if module is None:
        return
    changed = types.ModuleType(module.__name__)
    changed.__file__ = module.__file__
    exec(compile(text, str(ROOT / file), "exec"), changed.__dict__)
    for name, new in vars(changed).items():
        old = vars(module).get(name)
        if isinstance(new, CONSTANTS) and not name.startswith("__"):
            _replace_constant(name, old, new)
        elif getattr(new, "__module__", None) == module.__name__:
            _graft_one(old, new)
            if isinstance(new, type):
                for member, value in vars(new).items():
                    _graft_one(vars(old).get(member), value)


CONSTANTS = (bool, int, float, tuple)


def _replace_constant(name: str, old: Any, new: Any) -> None:
    """In each module of the package that has the constant under its name."""
    for module in list(sys.modules.values()):
        if module.__name__.startswith("fedvlr_jax") and vars(module).get(name) is old:
            setattr(module, name, new)


def _graft_one(old: Any, new: Any) -> None:
    for part in ("__wrapped__", "__func__", "fget"):
        if hasattr(new, part):
            _graft_one(getattr(old, part), getattr(new, part))
    if isinstance(new, types.FunctionType) and isinstance(old, types.FunctionType):
        old.__code__ = new.__code__
        old.__defaults__, old.__kwdefaults__ = new.__defaults__, new.__kwdefaults__


def can_graft(source: str, line: int) -> bool:
    """Whether this line is in a function, a method or a constant, which `_graft` reaches."""
    module = ast.parse(source)
    reached = [node for node in module.body if _is_constant(node)]
    for scope in (module, *(node for node in module.body if isinstance(node, ast.ClassDef))):
        reached += [node for node in scope.body if isinstance(node, ast.FunctionDef)]
    return any(node.lineno <= line <= node.end_lineno for node in reached)


def _is_constant(node: ast.AST) -> bool:
    inside = (ast.Constant, ast.Tuple, ast.UnaryOp, ast.BinOp)
    return isinstance(node, ast.Assign) and isinstance(node.value, inside)


MARK = "__function_called__"


def _marked(source: str, file: str) -> str:
    """`source` with a call of MARK in each function and lambda."""

    class Marker(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            mark = ast.parse(f"{MARK}({file!r}, {first_line(node)})").body
            self.generic_visit(node)
            # After a docstring, which may be the whole body.
            start = int(ast.get_docstring(node) is not None)
            node.body[start:start] = mark
            return node

        def visit_Lambda(self, node):
            mark = ast.parse(f"{MARK}({file!r}, {first_line(node)})", mode="eval").body
            self.generic_visit(node)
            node.body = ast.BoolOp(ast.Or(), [mark, node.body])
            return node

    return ast.unparse(ast.fix_missing_locations(Marker().visit(ast.parse(source))))
