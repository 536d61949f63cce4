"""Prints the lower bounds of setup.cfg as exact versions, for `make test-floors`."""

from configparser import ConfigParser
from pathlib import Path


def floors(path: Path) -> list[str]:
    """The requirements of the package and of its tests, each at its lower bound."""
    setup = ConfigParser()
    setup.read(path, encoding="utf-8")
    lines = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    return [line.replace(">=", "==") for line in lines.split("\n") if line]


if __name__ == "__main__":
    print("\n".join(floors(Path(__file__).parents[1] / "setup.cfg")))
