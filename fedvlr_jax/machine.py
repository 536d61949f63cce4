"""The memory limit of this process: the machine's memory, or a lower limit set on the process.

Containers and batch systems end a process that exceeds their limit. The smallest limit applies.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_SLURM_UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class MemoryLimit(NamedTuple):
    """An upper bound on the memory of this process.

    Attributes:
      size: bytes.
      source: its origin, as a phrase after "the limit of".
    """

    size: float
    source: str


def memory_limit(
    root: Path = Path("/"), environment: Mapping[str, str] = os.environ
) -> MemoryLimit:
    """The smallest limit that applies to this process.

    This is the machine's physical memory, or a lower limit of a control group (version 1 or 2, of
    this process or its parents), of Slurm, or of the address space of the process.

    Args:
      root: the folder that contains proc and the mounted file systems.
      environment: the environment variables.
    """
    physical = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limits = [MemoryLimit(physical, "the machine")]
    limits += [*control_group_limits(root), *slurm_limits(environment)]
    for option, name in (("v", "RLIMIT_AS"), ("d", "RLIMIT_DATA")):
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY:
            limits.append(MemoryLimit(float(soft), f"ulimit -{option} ({name})"))
    return min(limits, key=lambda limit: limit.size)


def control_group_limits(root: Path) -> list[MemoryLimit]:
    """The limits of the control groups of this process; [] if there are none.

    Groups above the mounted one, e.g. outside a container, cannot be read. Version 1 reports their
    smallest limit in `memory.stat`. A missing file or the text "max" means no limit; version 1
    means it by a number larger than any machine.
    """
    groups = _memory_groups(root)
    return [
        limit
        for version, mounted_group, mount in _mounts(root)
        if version in groups
        for limit in _hierarchy_limits(version, groups[version], mounted_group, mount, root)
    ]


def _memory_groups(root: Path) -> dict[int, PurePosixPath]:
    """{version 1 or 2: the group of this process in the hierarchy with a memory controller}."""
    groups = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if hierarchy == "0":
            groups[2] = PurePosixPath(group)
        elif "memory" in controllers.split(","):
            groups[1] = PurePosixPath(group)
    return groups


def _mounts(root: Path) -> Iterator[tuple[int, PurePosixPath, Path]]:
    """(version, group, folder) of each mounted hierarchy; the folder shows the group."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount, _, kind = line.partition(" - ")
        fields, about = mount.split(), kind.split()
        if len(fields) < 5 or len(about) < 2:
            continue
        group, folder = (re.sub(r"\\(\d{3})", _from_octal, field) for field in fields[3:5])
        if about[0] == "cgroup2":
            version = 2
        elif about[0] == "cgroup" and "memory" in about[-1].split(","):
            version = 1
        else:
            continue
        yield version, PurePosixPath(group), root / folder.lstrip("/")


def _from_octal(escaped: re.Match[str]) -> str:
    return chr(int(escaped[1], 8))


def _hierarchy_limits(
    version: int, group: PurePosixPath, mounted: PurePosixPath, mount: Path, root: Path
) -> Iterator[MemoryLimit]:
    """The limits of a group and its parents, up to the mounted group."""
    inside = group.is_relative_to(mounted) and ".." not in group.parts
    folder = mount / group.relative_to(mounted) if inside else mount
    shown = lambda path: f"/{path.relative_to(root)}"
    if version == 1:
        for size in re.findall(
            r"^hierarchical_memory_limit (\d+)$", _text(folder / "memory.stat"), re.M
        ):
            yield MemoryLimit(float(size), f"the control group, {shown(folder / 'memory.stat')}")
    # Above memory.high the kernel throttles the process so much that it almost stops.
    names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
    while True:
        for name in names:
            if (size := _text(folder / name).strip()).isdigit():
                yield MemoryLimit(float(size), f"the control group, {shown(folder / name)}")
        if folder == mount:
            return
        folder = folder.parent
        # Version 1 ignores the limits of parent groups without use_hierarchy.
        if _text(folder / "memory.use_hierarchy").strip() == "0":
            return


def slurm_limits(environment: Mapping[str, str]) -> list[MemoryLimit]:
    """The memory that Slurm allots to this process on this node; [] outside a job.

    In Slurm 0 means all memory, so it is no limit. The tasks of a job step on one node share the
    memory of the node.
    """
    limits = []
    node, cpu, cpus = (
        environment.get(f"SLURM_{name}", "")
        for name in ("MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE")
    )
    tasks = _slurm_tasks(environment)
    shared = f" / {tasks} tasks of this step" if tasks > 1 else ""
    if size := _slurm_bytes(node):
        limits.append(MemoryLimit(size / tasks, f"Slurm, SLURM_MEM_PER_NODE={node}{shared}"))
    if (size := _slurm_bytes(cpu)) and cpus.isdigit() and int(cpus):
        source = f"Slurm, SLURM_MEM_PER_CPU={cpu} x SLURM_CPUS_ON_NODE={cpus}{shared}"
        limits.append(MemoryLimit(size * int(cpus) / tasks, source))
    return limits


def _slurm_tasks(environment: Mapping[str, str]) -> int:
    """The number of tasks of this job step on this node; 1 if unknown.

    SLURM_STEP_TASKS_PER_NODE is such as "4(x2),1": 4 on each of two nodes, 1 on the third.
    """
    counts: list[int] = []
    for entry in environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        if found := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", entry.strip()):
            counts += [int(found[1])] * int(found[2] or 1)
    node = environment.get("SLURM_NODEID", "0")
    return max(1, counts[int(node)]) if node.isdigit() and int(node) < len(counts) else 1


def _slurm_bytes(size: str) -> float:
    """Bytes of a size in Slurm's notation, such as "4096" (MiB) or "4G"; 0 for any other text."""
    found = re.fullmatch(r"(\d+)([KMGT]?)", size.strip().upper())
    return float(found[1]) * _SLURM_UNITS[found[2]] if found else 0.0


def _text(path: Path) -> str:
    """The text of a file; "" if it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
