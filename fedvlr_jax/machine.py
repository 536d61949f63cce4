"""The memory of this process: its peak, and the limits of the machine on it.

Containers and batch systems may limit a process to less memory than the machine has, and kill a
process that uses more. The smallest limit applies.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_SLURM_UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class MemoryLimit(NamedTuple):
    """An upper bound on the memory of this process.

    Attributes:
      size: bytes.
      source: the origin of the limit, as words that follow "the limit of".
    """

    size: float
    source: str


class Budget(NamedTuple):
    """The memory that a run may use.

    Attributes:
      size: bytes.
      source: the flag or the limit that sets it, as a phrase for messages.
    """

    size: float
    source: str

    def __str__(self) -> str:
        return f"{gigabytes(self.size)} ({self.source})"


def budget_within(limit: MemoryLimit, memory_budget_gb: float) -> Budget:
    """--memory_budget_gb; where it is 0, nine tenths of the limit."""
    if memory_budget_gb:
        return Budget(1e9 * memory_budget_gb, f"--memory_budget_gb={memory_budget_gb:g}")
    size, source = limit
    return Budget(0.9 * size, f"nine tenths of {gigabytes(size)}, the limit of {source}")


def gigabytes(size: float) -> str:
    """ "1.25 GB"."""
    return f"{size / 1e9:.3g} GB"


def memory_limit(
    root: Path = Path("/"), environment: Mapping[str, str] = os.environ
) -> MemoryLimit:
    """The smallest limit that applies to this process.

    It is the machine's physical memory, unless a control group of this process or one of its
    parents (version 1 or 2), Slurm, RLIMIT_AS or RLIMIT_DATA allows less.

    Args:
      root: the folder that contains proc and the mounted file systems.
      environment: the environment variables.
    """
    limits = [MemoryLimit(_physical_bytes(), "the machine")]
    limits += [*control_group_limits(root), *slurm_limits(environment), *_resource_limits()]
    return min(limits, key=lambda limit: limit.size)


def _physical_bytes() -> float:
    if sys.platform == "win32":
        import psutil

        return float(psutil.virtual_memory().total)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _resource_limits() -> list[MemoryLimit]:
    """The limits of `ulimit`; [] on Windows, which has none."""
    if sys.platform == "win32":
        return []
    import resource  # Does not exist on Windows.

    found = []
    for option, name in (("v", "RLIMIT_AS"), ("d", "RLIMIT_DATA")):
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY:
            found.append(MemoryLimit(float(soft), f"ulimit -{option} ({name})"))
    return found


def peak_rss_mb() -> float:
    """The peak memory of this process, in MB (1e6 bytes)."""
    counted = re.search(r"VmHWM:\s*(\d+) kB", _text(Path("/proc/self/status")))
    if counted:
        # On Linux ru_maxrss includes the peak of the parent process, so it is not used.
        return 1024 * int(counted[1]) / 1e6
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e6
    import resource  # Does not exist on Windows.

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def control_group_limits(root: Path) -> list[MemoryLimit]:
    """The limits of the control groups of this process; [] without control groups.

    A container cannot read the groups above its mount. Version 1 reports the smallest of their
    limits in `memory.stat`. A missing file and the content "max" mean no limit. Version 1 writes a
    number for "no limit" that is larger than the memory of any machine.
    """
    groups = _memory_groups(root)
    return [
        limit
        for version, mounted_group, mount in _mounts(root)
        if version in groups
        for limit in _hierarchy_limits(version, groups[version], mounted_group, mount, root)
    ]


def _memory_groups(root: Path) -> dict[int, PurePosixPath]:
    """{version 1 or 2: the control group of this process in the hierarchy of that version}."""
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
    """(version, group, folder) of each mounted hierarchy: `folder` is where `group` is mounted."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount, _, file_system = line.partition(" - ")
        fields, type_fields = mount.split(), file_system.split()
        if len(fields) < 5 or len(type_fields) < 2:
            continue
        group, folder = (re.sub(r"\\(\d{3})", _from_octal, field) for field in fields[3:5])
        if type_fields[0] == "cgroup2":
            version = 2
        elif type_fields[0] == "cgroup" and "memory" in type_fields[-1].split(","):
            version = 1
        else:
            continue
        yield version, PurePosixPath(group), root / folder.lstrip("/")


def _from_octal(escaped: re.Match[str]) -> str:
    return chr(int(escaped[1], 8))


def _hierarchy_limits(
    version: int, group: PurePosixPath, mounted: PurePosixPath, mount: Path, root: Path
) -> Iterator[MemoryLimit]:
    """The limits of a group and of its parents, up to the mounted group."""
    inside = group.is_relative_to(mounted) and ".." not in group.parts
    folder = mount / group.relative_to(mounted) if inside else mount
    shown = lambda path: f"/{path.relative_to(root)}"
    if version == 1:
        for size in re.findall(
            r"^hierarchical_memory_limit (\d+)$", _text(folder / "memory.stat"), re.M
        ):
            yield MemoryLimit(float(size), f"the control group, {shown(folder / 'memory.stat')}")
    # Above memory.high the kernel throttles a process so much that it hardly runs.
    names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
    while True:
        for name in names:
            if (size := _text(folder / name).strip()).isdigit():
                yield MemoryLimit(float(size), f"the control group, {shown(folder / name)}")
        if folder == mount:
            return
        folder = folder.parent
        # Version 1 can ignore the limits of the parent groups.
        if _text(folder / "memory.use_hierarchy").strip() == "0":
            return


def slurm_limits(environment: Mapping[str, str]) -> list[MemoryLimit]:
    """The memory that Slurm allocates to this process on this node; [] outside a Slurm job.

    The tasks of a job step on one node share the memory of the allocation. Slurm's value 0 means
    all memory of the node, so it is not a limit.
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
    """The number of tasks of this job step on this node; 1 if it is unknown.

    The value "4(x2),1" of SLURM_STEP_TASKS_PER_NODE means 4 tasks on each of the first two nodes
    and 1 on the third.
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
    """The content of a file; "" if it cannot be read."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
