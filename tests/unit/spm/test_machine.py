"""What the machine leaves us, from files like those of the kernel's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from spm import machine
from spm.cgroup import read
from spm.machine import Machine

NS = 1_000_000_000
MB = 1 << 20
NO_LIMIT_V1 = 9223372036854771712


class Kernel:
    """A procfs and control groups below a directory of our own; `now_ns` is the clock."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory / "proc"
        self.mounted = directory / "cgroup"
        self.now_ns = 0
        self.write(self.proc / "meminfo", "MemTotal: 8388608 kB\nMemAvailable:  4194304 kB\n")
        self.cores((0, 100), (0, 100))

    def write(self, path: Path, text: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def group(self, place: str, **files: object) -> None:
        """Write files of a control group; `cpu__max` is `cpu.max`."""
        for name, text in files.items():
            self.write(self.mounted / place / name.replace("__", "."), text)

    def version_2(self, group: str = "/outer/inner", root: str = "/") -> None:
        """Be in this group, and see what is below root."""
        self.write(self.proc / "self/cgroup", f"0::{group}")
        self._mount(("rw - cgroup2 cgroup2 rw", "", root))

    def version_1(self, group: str = "/outer/inner", root: str = "/") -> None:
        """The same with a tree for each controller, as systemd mounts them, and one for itself."""
        lines = ["12:pids:/", f"5:memory:{group}", f"4:cpu,cpuacct:{group}"]
        self.write(self.proc / "self/cgroup", "\n".join([*lines, "1:name=systemd:/x", "0::/x"]))
        self._mount(
            ("rw shared:9 - cgroup2 cgroup2 rw", "unified", "/"),
            ("rw shared:10 - cgroup cgroup rw,cpu,cpuacct", "cpu,cpuacct", root),
            ("rw shared:11 - cgroup cgroup rw,memory", "memory", root),
        )

    def _mount(self, *mounts: tuple[str, str, str]) -> None:
        lines = [
            f"{30 + number} 23 0:28 {root} {self.mounted / place} {rest}"
            for number, (rest, place, root) in enumerate(mounts)
        ]
        first = f"29 23 0:27 / {self.proc} rw,nosuid - proc proc rw"
        self.write(self.proc / "self/mountinfo", "\n".join([first, *lines]))

    def cores(self, *busy_and_idle: tuple[int, int]) -> None:
        """Let each core have been so long busy (half of it a guest) and idle (half: disk)."""
        rows = [
            [busy // 2, 0, busy - busy // 2, idle // 2, idle - idle // 2, 0, 0, 0, busy // 2, 0]
            for busy, idle in busy_and_idle
        ]
        sums = [sum(column) for column in zip(*rows, strict=True)]
        lines = [f"cpu  {' '.join(map(str, sums))}"]
        lines += [f"cpu{number} {' '.join(map(str, row))}" for number, row in enumerate(rows)]
        self.write(self.proc / "stat", "\n".join([*lines, "intr 1 2 3", "ctxt 5"]))

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS)

    def machine(self) -> Machine:
        return Machine(self.proc, lambda: self.now_ns)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    return Kernel(tmp_path)


@pytest.fixture
def affinity(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *cores: monkeypatch.setattr("os.sched_getaffinity", lambda _: set(cores))


# --- cores -----------------------------------------------------------------------------------


def test_without_limits_all_cores_of_the_affinity_mask_are_usable(kernel: Kernel) -> None:
    assert kernel.machine().usable_cores() == 8
    kernel.version_2()
    assert kernel.machine().usable_cores() == 8


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("9900000 100000", 8),
        ("nonsense", 8),
        ("1 0", 8),
    ],
)
def test_a_cpu_quota_limits_the_cores(kernel: Kernel, quota: str, cores: int) -> None:
    kernel.version_2()
    kernel.group("outer/inner", cpu__max=quota)
    assert kernel.machine().usable_cores() == cores


@pytest.mark.parametrize(("quota_us", "cores"), [(-1, 8), (200000, 2), (150000, 2), (1000, 1)])
def test_a_cpu_quota_of_version_1_limits_the_cores(
    kernel: Kernel, quota_us: int, cores: int
) -> None:
    kernel.version_1()
    files = {"cpu__cfs_quota_us": quota_us, "cpu__cfs_period_us": 100000}
    kernel.group("cpu,cpuacct/outer/inner", **files)
    assert kernel.machine().usable_cores() == cores


def test_the_quota_of_a_group_above_counts_too(kernel: Kernel) -> None:
    kernel.version_2()
    kernel.group("outer/inner", cpu__max="400000 100000")
    kernel.group("outer", cpu__max="300000 100000")
    assert kernel.machine().usable_cores() == 3


@pytest.mark.parametrize("group", ["/", "/docker/abc", "/docker/abc/inner", "/../../elsewhere"])
def test_in_a_container_the_mounted_part_of_the_tree_counts(kernel: Kernel, group: str) -> None:
    kernel.version_2(group, root="/docker/abc")
    kernel.group("", cpu__max="300000 100000")
    kernel.group("docker/abc", cpu__max="100000 100000")  # of another tree, by chance
    assert kernel.machine().usable_cores() == 3


def test_a_group_whose_name_begins_like_the_mounted_one_is_another(kernel: Kernel) -> None:
    kernel.version_2("/docker/abcdef", root="/docker/abc")
    kernel.group("def", cpu__max="100000 100000")
    assert kernel.machine().usable_cores() == 8


def test_a_copy_of_a_mount_does_not_hide_it(kernel: Kernel) -> None:
    kernel.version_2()
    with (kernel.proc / "self/mountinfo").open("a") as file:
        file.write(f"99 23 0:28 /other {kernel.mounted}/copy rw - cgroup2 cgroup2 rw\n")
    kernel.group("outer/inner", cpu__max="300000 100000")
    assert kernel.machine().usable_cores() == 3


def test_a_mount_point_may_have_a_space_in_its_name(kernel: Kernel) -> None:
    kernel.mounted = kernel.mounted / "a place"
    kernel.version_2()
    mountinfo = kernel.proc / "self/mountinfo"
    mountinfo.write_text(mountinfo.read_text().replace("a place", r"a\040place"))
    kernel.group("outer/inner", cpu__max="300000 100000")
    assert kernel.machine().usable_cores() == 3


def test_a_table_of_mounts_of_many_pages_is_read_whole() -> None:
    # The kernel gives such a file out in pieces of a page, unlike a file on a disk.
    path = Path("/proc/self/smaps")
    text = read(path)
    assert len(text) > 8192
    assert text.endswith("\n")
    assert "\nVmFlags:" in text[text.rindex("\nSize:") :]


def test_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "missing") == ""
    assert read(tmp_path) == ""  # it can be opened, and no more


# --- how busy ----------------------------------------------------------------------------------


def test_cpu_is_the_busy_share_since_the_last_call(
    kernel: Kernel, affinity: Callable[..., None]
) -> None:
    affinity(0, 1)
    machine = kernel.machine()
    kernel.cores((60, 140), (100, 100))
    assert machine.machine_cpu() == pytest.approx(0.8)
    kernel.cores((60, 240), (150, 150))
    assert machine.machine_cpu() == pytest.approx(0.25)
    assert machine.machine_cpu() == pytest.approx(0.25)  # no tick has passed since
    kernel.cores((60, 340), (150, 250))
    assert machine.machine_cpu() == 0.0


def test_cpu_is_that_of_the_cores_that_we_may_use(
    kernel: Kernel, affinity: Callable[..., None]
) -> None:
    affinity(1)
    machine = kernel.machine()
    kernel.cores((100, 100), (25, 175))
    assert machine.machine_cpu() == pytest.approx(0.25)
    affinity(0)
    kernel.cores((150, 150), (25, 275))
    machine.machine_cpu()  # new cores: from here
    kernel.cores((225, 175), (25, 375))
    assert machine.machine_cpu() == pytest.approx(0.75)


def test_with_a_quota_cpu_is_the_share_of_the_quota(kernel: Kernel) -> None:
    kernel.version_2()
    kernel.group("outer/inner", cpu__max="50000 100000", cpu__stat="usage_usec 1000000")
    machine = kernel.machine()
    kernel.pass_s(2)
    kernel.group("outer/inner", cpu__stat="usage_usec 1750000\nuser_usec 1\nsystem_usec 2")
    assert machine.machine_cpu() == pytest.approx(0.75)
    kernel.pass_s(2)
    kernel.group("outer/inner", cpu__stat="usage_usec 9750000")  # a burst
    assert machine.machine_cpu() == 1.0
    kernel.group("outer/inner", cpu__max="max 100000")
    kernel.cores((10, 190), (10, 190))
    assert machine.machine_cpu() == pytest.approx(0.1)


def test_the_scarcer_of_cores_and_quota_counts(
    kernel: Kernel, affinity: Callable[..., None]
) -> None:
    affinity(0, 1)
    kernel.version_2()
    kernel.group("outer/inner", cpu__max="200000 100000", cpu__stat="usage_usec 0")
    machine = kernel.machine()
    kernel.pass_s(1)
    kernel.group("outer/inner", cpu__stat="usage_usec 200000")
    kernel.cores((80, 120), (80, 120))  # others
    assert machine.machine_cpu() == pytest.approx(0.8)


def test_a_quota_of_version_1_is_compared_with_the_time_of_its_own_group(kernel: Kernel) -> None:
    kernel.version_1()
    place = "cpu,cpuacct/outer/inner"
    files = {"cpu__cfs_quota_us": 50000, "cpu__cfs_period_us": 100000}
    kernel.group(place, **files, cpuacct__usage=5 * NS)
    machine = kernel.machine()
    kernel.pass_s(2)
    kernel.group(place, cpuacct__usage=5 * NS + NS // 2)
    assert machine.machine_cpu() == pytest.approx(0.5)


def test_time_counted_for_another_group_says_nothing_of_our_quota(kernel: Kernel) -> None:
    kernel.write(kernel.proc / "self/cgroup", "2:cpuacct:/\n1:cpu:/ours")
    kernel._mount(
        ("rw - cgroup cgroup rw,cpu", "cpu", "/"), ("rw - cgroup cgroup rw,cpuacct", "acct", "/")
    )
    files = {"cpu__cfs_quota_us": 50000, "cpu__cfs_period_us": 100000}
    kernel.group("cpu/ours", **files)
    kernel.group("acct", cpuacct__usage=0)
    machine = kernel.machine()
    kernel.pass_s(1)
    kernel.group("acct", cpuacct__usage=1 * NS)
    assert machine.machine_cpu() == 0.0
    assert machine.usable_cores() == 1


# --- waiting for a core ------------------------------------------------------------------------

SOME = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 total=99999999"


def test_pressure_is_the_share_of_time_in_which_our_group_waited(kernel: Kernel) -> None:
    kernel.version_2()
    kernel.write(kernel.proc / "pressure/cpu", SOME.format(7))
    kernel.group("outer/inner", cpu__pressure=SOME.format(1_000_000))
    machine = kernel.machine()
    kernel.pass_s(2)
    kernel.group("outer/inner", cpu__pressure=SOME.format(1_500_000))
    assert machine.cpu_pressure() == pytest.approx(0.25)
    kernel.pass_s(2)
    assert machine.cpu_pressure() == 0.0
    kernel.pass_s(1)
    kernel.group("outer/inner", cpu__pressure=SOME.format(9_000_000))
    assert machine.cpu_pressure() == 1.0


def test_pressure_is_the_machine_s_where_groups_have_none(kernel: Kernel) -> None:
    kernel.version_1()
    kernel.write(kernel.proc / "pressure/cpu", SOME.format(0))
    machine = kernel.machine()
    kernel.pass_s(1)
    kernel.write(kernel.proc / "pressure/cpu", SOME.format(400_000))
    assert machine.cpu_pressure() == pytest.approx(0.4)


def test_without_the_kernel_s_measuring_there_is_no_pressure(kernel: Kernel) -> None:
    kernel.version_2()
    assert kernel.machine().cpu_pressure() is None


@pytest.mark.parametrize("version", [1, 2])
def test_throttling_is_the_share_of_periods(kernel: Kernel, version: int) -> None:
    place = "outer/inner"
    quota: dict[str, object] = {"cpu__max": "50000 100000"}
    if version == 1:
        place = f"cpu,cpuacct/{place}"
        quota = {"cpu__cfs_quota_us": 50000, "cpu__cfs_period_us": 100000}
    (kernel.version_1 if version == 1 else kernel.version_2)()
    kernel.group(place, **quota, cpu__stat="nr_periods 100\nnr_throttled 50")
    machine = kernel.machine()
    kernel.group(place, cpu__stat="nr_periods 110\nnr_throttled 52\nthrottled_usec 1")
    assert machine.cpu_throttled() == pytest.approx(0.2)
    assert machine.cpu_throttled() == 0.0


def test_without_a_quota_there_is_no_throttling(kernel: Kernel) -> None:
    kernel.version_2()
    kernel.group("outer/inner", cpu__max="max 100000", cpu__stat="nr_periods 0\nnr_throttled 0")
    assert kernel.machine().cpu_throttled() is None


# --- memory ------------------------------------------------------------------------------------


def test_without_limits_what_the_machine_has_is_available(kernel: Kernel) -> None:
    assert kernel.machine().memory_available_bytes() == 4096 * MB
    kernel.version_2()
    kernel.group("outer", memory__max="max", memory__high="max", memory__current=70 * MB)
    assert kernel.machine().memory_available_bytes() == 4096 * MB
    kernel.group("outer", memory__max=1 << 50)
    assert kernel.machine().memory_available_bytes() == 4096 * MB


@pytest.mark.parametrize("place", ["outer", "outer/inner"])
def test_memory_is_limited_by_every_group_that_we_are_in(kernel: Kernel, place: str) -> None:
    kernel.version_2()
    kernel.group(place, memory__max=100 * MB, memory__current=70 * MB)
    machine = kernel.machine()
    assert machine.memory_available_bytes() == 30 * MB
    kernel.group(place, memory__current=170 * MB)
    assert machine.memory_available_bytes() == 0


def test_memory_is_limited_where_the_kernel_begins_to_slow_us_down(kernel: Kernel) -> None:
    kernel.version_2()
    kernel.group("outer", memory__max=100 * MB, memory__high=90 * MB, memory__current=70 * MB)
    assert kernel.machine().memory_available_bytes() == 20 * MB


def test_files_that_nobody_reads_take_no_memory(kernel: Kernel) -> None:
    kernel.version_2()
    stat = f"anon {30 * MB}\nfile {40 * MB}\nactive_file {15 * MB}\ninactive_file {25 * MB}"
    kernel.group("outer", memory__max=100 * MB, memory__current=70 * MB, memory__stat=stat)
    assert kernel.machine().memory_available_bytes() == 55 * MB


def test_memory_of_version_1(kernel: Kernel) -> None:
    kernel.version_1()
    place = "memory/outer/inner"
    files = {"memory__limit_in_bytes": NO_LIMIT_V1, "memory__usage_in_bytes": 70 * MB}
    kernel.group(place, **files)
    machine = kernel.machine()
    assert machine.memory_available_bytes() == 4096 * MB
    stat = f"inactive_file {1 * MB}\ntotal_inactive_file {25 * MB}"
    kernel.group(place, memory__limit_in_bytes=100 * MB, memory__stat=stat)
    assert machine.memory_available_bytes() == 55 * MB


# --- killed for want of memory -------------------------------------------------------------------


def test_kills_are_those_of_our_own_group(kernel: Kernel) -> None:
    kernel.version_2()
    kernel.write(kernel.proc / "vmstat", "oom_kill 99")
    kernel.group("outer", memory__events="oom 5\noom_kill 17")
    kernel.group("outer/inner", memory__events="low 0\noom 5\noom_kill 4\noom_group_kill 0")
    machine = kernel.machine()
    assert machine.oom_kills() == 4
    kernel.group("outer/inner", memory__events="oom_kill 5")
    assert machine.oom_kills() == 5


def test_kills_of_version_1(kernel: Kernel) -> None:
    kernel.version_1()
    kernel.write(kernel.proc / "vmstat", "oom_kill 99")
    control = "oom_kill_disable 0\nunder_oom 0\noom_kill 3"
    kernel.group("memory/outer/inner", memory__oom_control=control)
    assert kernel.machine().oom_kills() == 3


def test_kills_are_the_machine_s_where_groups_do_not_tell(kernel: Kernel) -> None:
    kernel.version_2("/")
    kernel.write(kernel.proc / "vmstat", "nr_free_pages 1\noom_kill 99\nnuma_hit 7")
    assert kernel.machine().oom_kills() == 99


def test_where_nobody_tells_no_kills_are_known(kernel: Kernel) -> None:
    assert kernel.machine().oom_kills() is None


# --- the real one, and single processes ----------------------------------------------------------


def test_this_machine_answers() -> None:
    this = Machine()
    assert 1 <= this.usable_cores() <= len(os.sched_getaffinity(0))
    assert 0 <= this.machine_cpu() <= 1
    assert this.memory_available_bytes() > MB
    for share in (this.cpu_pressure(), this.cpu_throttled()):
        assert share is None or 0 <= share <= 1
    kills = this.oom_kills()
    assert kills is None or kills >= 0


def test_a_process_that_is_gone_has_no_numbers() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert machine.process_cpu_ns(pid) is None
    assert machine.process_memory(pid) == {}


def test_of_a_process_that_hides_its_pages_the_resident_ones_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def deny(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", deny)
    memory = machine.process_memory(os.getpid())
    assert list(memory) == ["rss"]
    assert memory["rss"] > MB


def test_our_own_cpu_time_grows() -> None:
    before = machine.process_cpu_ns(os.getpid()) or 0
    sum(range(100_000))
    assert (machine.process_cpu_ns(os.getpid()) or 0) > before
