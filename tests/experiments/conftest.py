import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Compiled programs of all commands of a test process."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(tmp_path, cache):
    """run("train", "--rounds=3", ...): the command in an empty folder; what it printed."""

    def run(module, *arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "FEDVLR_CACHE_DIR": str(cache)}
        return subprocess.run(
            [sys.executable, "-m", f"experiments.{module}", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=3600,
        )

    return run
