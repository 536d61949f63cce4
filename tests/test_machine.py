"""Limits of control groups, of Slurm and of the process, from trees of files that are made up."""

import resource
from pathlib import Path

import pytest

from fedvlr_jax.machine import MemoryLimit, control_group_limits, memory_limit, slurm_limits

V1_UNLIMITED = 9223372036854771712
PHYSICAL = memory_limit(Path("/nowhere"), {}).size


def tree(root, cgroup, mountinfo, files):
    """A root folder with these lines in proc/self, and these files below it."""
    files = {
        "proc/self/cgroup": "".join(f"{line}\n" for line in cgroup),
        "proc/self/mountinfo": "".join(f"{line}\n" for line in mountinfo),
        **files,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def v2(group="/", folder="/sys/fs/cgroup"):
    return f"31 23 0:28 {group} {folder} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"


def v1(group="/", folder="/sys/fs/cgroup/memory"):
    return f"32 31 0:29 {group} {folder} rw,relatime shared:9 - cgroup cgroup rw,memory"


def smallest(root):
    return min(control_group_limits(root))


def test_a_container_of_version_2_sees_its_own_group_as_the_root(tmp_path):
    root = tree(tmp_path, ["0::/"], [v2()], {"sys/fs/cgroup/memory.max": 4 * 2**30})
    source = "the control group, /sys/fs/cgroup/memory.max"
    assert control_group_limits(root) == [(4 * 2**30, source)]
    assert memory_limit(root, {}) == MemoryLimit(min(4 * 2**30, PHYSICAL), source)


@pytest.mark.parametrize("sizes", [("max", 9, 5), (5, 9, "max"), (9, 5, 7)])
def test_nested_groups_of_version_2_all_apply(sizes, tmp_path):
    above, job, step = sizes
    files = {"sys/fs/cgroup/memory.max": above, "sys/fs/cgroup/job/memory.max": job}
    files["sys/fs/cgroup/job/step/memory.max"] = step
    root = tree(tmp_path, ["0::/job/step"], [v2()], files)
    numbers = [size for size in sizes if size != "max"]
    assert sorted(limit.size for limit in control_group_limits(root)) == sorted(numbers)


def test_a_container_of_version_1_sees_its_group_at_the_mount(tmp_path):
    group = "/docker/abc"
    files = {"sys/fs/cgroup/memory/memory.limit_in_bytes": 2**30}
    cgroup = ["5:cpu,cpuacct:/docker/abc", f"4:memory:{group}", "1:name=systemd:/", "0::/"]
    root = tree(tmp_path, cgroup, [v1(group)], files)
    source = "the control group, /sys/fs/cgroup/memory/memory.limit_in_bytes"
    assert control_group_limits(root) == [(2**30, source)]
    # A group within the one that is mounted.
    files["sys/fs/cgroup/memory/sub/memory.limit_in_bytes"] = 2**29
    cgroup[1] = f"4:memory:{group}/sub"
    assert smallest(tree(tmp_path, cgroup, [v1(group)], files)).size == 2**29


def test_version_1_sums_up_the_limits_of_groups_that_are_not_mounted(tmp_path):
    memory = "sys/fs/cgroup/memory"
    files = {f"{memory}/memory.limit_in_bytes": V1_UNLIMITED}
    files[f"{memory}/memory.stat"] = "cache 0\nhierarchical_memory_limit 1073741824\ntotal_cache 0"
    root = tree(tmp_path, ["4:memory:/pod/one"], [v1("/pod/one")], files)
    assert smallest(root) == (2**30, "the control group, /sys/fs/cgroup/memory/memory.stat")


@pytest.mark.parametrize(("hierarchy", "expected"), [("1", 2**29), ("0", 2**30)])
def test_version_1_may_leave_higher_groups_out_of_account(hierarchy, expected, tmp_path):
    memory = "sys/fs/cgroup/memory"
    files = {
        f"{memory}/job/memory.limit_in_bytes": 2**29,
        f"{memory}/job/memory.use_hierarchy": hierarchy,
        f"{memory}/job/step/memory.limit_in_bytes": 2**30,
    }
    root = tree(tmp_path, ["4:memory:/job/step"], [v1()], files)
    assert smallest(root).size == expected


def test_both_versions_at_once(tmp_path):
    files = {
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": 2**30,
        "sys/fs/cgroup/unified/memory.max": "max",
    }
    mounts = [v1(), v2(folder="/sys/fs/cgroup/unified")]
    root = tree(tmp_path, ["4:memory:/job", "0::/"], mounts, files)
    assert [limit.size for limit in control_group_limits(root)] == [2**30]


def test_a_group_outside_what_is_mounted_has_the_limit_of_the_mount(tmp_path):
    files = {"sys/fs/cgroup/memory.max": 2**30}
    for group, mounted in (("/../other", "/"), ("/user", "/docker/abc"), ("/", "/../..")):
        root = tree(tmp_path, [f"0::{group}"], [v2(mounted)], files)
        assert [limit.size for limit in control_group_limits(root)] == [2**30]


def test_a_folder_with_a_blank_in_its_name(tmp_path):
    files = {"my groups/memory.max": 2**30}
    root = tree(tmp_path, ["0::/"], [v2(folder="/my\\040groups")], files)
    assert smallest(root).source == "the control group, /my groups/memory.max"


@pytest.mark.parametrize("text", ["max", V1_UNLIMITED, "", "nonsense"])
def test_what_is_no_limit_leaves_the_memory_of_the_machine(text, tmp_path):
    files = {"sys/fs/cgroup/memory.max": text}
    root = tree(tmp_path, ["0::/"], [v2()], files)
    assert memory_limit(root, {}) == (PHYSICAL, "the machine")


def test_without_control_groups_the_machine_is_the_limit(tmp_path):
    assert control_group_limits(tmp_path) == []
    assert memory_limit(tmp_path, {}) == (PHYSICAL, "the machine")
    bare = tree(tmp_path, ["0::/"], [v2()], {})
    assert control_group_limits(bare) == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MEM_PER_NODE": "2048"}, 2**31),
        ({"MEM_PER_NODE": "2G"}, 2**31),
        ({"MEM_PER_CPU": "512", "CPUS_ON_NODE": "4"}, 2**31),
        ({"MEM_PER_NODE": "4096", "MEM_PER_CPU": "512", "CPUS_ON_NODE": "4"}, 2**31),
        ({"MEM_PER_NODE": "8G", "STEP_TASKS_PER_NODE": "4"}, 2**31),
        ({"MEM_PER_NODE": "8G", "STEP_TASKS_PER_NODE": "4(x2),1", "NODEID": "1"}, 2**31),
        ({"MEM_PER_NODE": "2G", "STEP_TASKS_PER_NODE": "4(x2),1", "NODEID": "2"}, 2**31),
        ({"MEM_PER_CPU": "1G", "CPUS_ON_NODE": "4", "STEP_TASKS_PER_NODE": "2"}, 2**31),
        ({"MEM_PER_NODE": "2G", "STEP_TASKS_PER_NODE": "?", "NODEID": "7"}, 2**31),
    ],
)
def test_slurm(variables, expected):
    environment = {f"SLURM_{name}": value for name, value in variables.items()}
    limit = min(slurm_limits(environment))
    assert limit.size == expected and limit.source.startswith("Slurm, SLURM_MEM_PER_")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"MEM_PER_NODE": "0"},
        {"MEM_PER_NODE": "all"},
        {"MEM_PER_CPU": "512"},
        {"MEM_PER_CPU": "512", "CPUS_ON_NODE": "4(x2)"},
    ],
)
def test_slurm_without_a_limit(variables):
    assert slurm_limits({f"SLURM_{name}": value for name, value in variables.items()}) == []


def test_the_smallest_limit_is_the_one_that_applies(tmp_path, monkeypatch):
    root = tree(tmp_path, ["0::/"], [v2()], {"sys/fs/cgroup/memory.max": 3 * 2**29})
    assert memory_limit(root, {"SLURM_MEM_PER_NODE": "1024"}).source == (
        "Slurm, SLURM_MEM_PER_NODE=1024"
    )
    assert memory_limit(root, {"SLURM_MEM_PER_NODE": "2048"}).size == 3 * 2**29
    for name, source in (("AS", "ulimit -v (RLIMIT_AS)"), ("DATA", "ulimit -d (RLIMIT_DATA)")):
        limits = {getattr(resource, f"RLIMIT_{name}"): 2**28}
        limit = lambda kind, limits=limits: (limits.get(kind, -1), resource.RLIM_INFINITY)
        monkeypatch.setattr(resource, "getrlimit", limit)
        assert memory_limit(root, {"SLURM_MEM_PER_NODE": "1024"}) == (2**28, source)


def test_a_group_that_is_slowed_down_above_a_size(tmp_path):
    files = {"sys/fs/cgroup/memory.max": 2**31, "sys/fs/cgroup/memory.high": 2**30}
    root = tree(tmp_path, ["0::/"], [v2()], files)
    assert smallest(root) == (2**30, "the control group, /sys/fs/cgroup/memory.high")
