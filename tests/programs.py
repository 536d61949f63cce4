"""Runs modules as `python -m` does, without the time of their imports.

A server imports the libraries and the package once and never starts a JAX backend. For each program
it forks a child, which has its own command line, environment, folder and streams.
"""

import gc
import importlib
import json
import os
import pathlib
import pkgutil
import runpy
import subprocess
import sys
import tempfile
import warnings

ROOT = pathlib.Path(__file__).parents[1]
# XLA_FLAGS of tests, which compile thousands of small programs for one run each.
QUICK_COMPILATION = "--xla_backend_optimization_level=0"
LIBRARIES = ("flax.linen", "optax", "orbax.checkpoint", "scipy.stats", "matplotlib.pyplot", "rich")
# Another process writes the same compiled program.
IGNORED = ",".join(
    f"ignore:Error {verb} persistent compilation cache:UserWarning"
    for verb in ("reading", "writing")
)


def folder_of_programs():
    """The folder of the programs that tests compile, a subfolder of that of the commands.

    It is empty, and nothing is stored, without such a folder or if it cannot be written.
    """
    # The runner of the mutations imports the package again for each of them, so not at the top.
    from fedvlr_jax.cache import cache_folder
    from fedvlr_jax.errors import InputError

    try:
        folder = cache_folder()
    except (RuntimeError, OSError, InputError):
        return ""
    return folder and os.path.join(folder, "tests")


def store_programs(folder):
    """From here on, JAX stores compiled programs in `folder`; nothing changes if it is empty."""
    import jax

    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def environment_of(**changes):
    """The environment of a program: that of this process with `changes`, and tests' programs."""
    own = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": IGNORED}
    return {**os.environ, **own, "FEDVLR_CACHE_DIR": folder_of_programs(), **changes}


class Programs:
    """A server of programs, started at the first of them and stopped by `close`."""

    def __init__(self):
        self._server, self._environment = None, {}

    def run(self, module, *arguments, cwd=ROOT, **changes):
        """Runs `python -m module arguments`; returns what `subprocess.run` returns, as text.

        Args:
          changes: of the environment. Of XLA_FLAGS too, which are read later than the imports.
        """
        environment = environment_of(**changes)
        if self._server is None:
            self._server, self._environment = self._start(environment), environment
        for name in environment | self._environment:
            same = environment.get(name) == self._environment.get(name)
            assert same or not name.startswith("JAX_"), f"{name}: was read by the import of JAX"
        with tempfile.TemporaryDirectory() as folder:
            files = [os.path.join(folder, name) for name in ("stdout", "stderr")]
            request = {
                "module": module,
                "arguments": list(arguments),
                "cwd": str(cwd),
                "environment": environment,
                "files": files,
            }
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
            assert answer, "the server of programs has ended"
            printed = [pathlib.Path(file).read_text() for file in files]
        return subprocess.CompletedProcess([module, *arguments], int(answer), *printed)

    def _start(self, environment):
        return subprocess.Popen(
            [sys.executable, "-m", "tests.programs"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self):
        if self._server is not None:
            self._server.communicate()


def serve():
    """Runs a program for each line of the input; prints its exit status."""
    _import_all()
    gc.freeze()
    for line in sys.stdin:
        with warnings.catch_warnings():
            # The threads of the libraries sleep, and no backend runs.
            warnings.simplefilter("ignore")
            child = os.fork()
        if child == 0:
            _run_here(json.loads(line))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _import_all():
    from fedvlr_jax import commands

    for name in LIBRARIES:
        importlib.import_module(name)
    for module in pkgutil.iter_modules(commands.__path__, "fedvlr_jax.commands."):
        importlib.import_module(module.name)


def _run_here(request):
    """This process goes on as the program."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    written = [os.open(file, os.O_WRONLY | os.O_CREAT) for file in request["files"]]
    for stream, file in enumerate([os.open(os.devnull, os.O_RDONLY), *written]):
        os.dup2(file, stream)
    sys.stdin = open(0, closefd=False)
    sys.argv = [request["module"], *request["arguments"]]
    sys.path[0] = request["cwd"]
    store_programs(os.environ["FEDVLR_CACHE_DIR"])
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve()
