"""A machine made of namespaces, whose first process is the systemd of its own tree of files.

It has its own processes, network, mounts, host name and control group, and shares the kernel. What it writes is in
memory and gone with it. Kernel settings and /sys can only be read in it, so that its start changes nothing of the
machine that it runs on. Whoever started it may die in any way: it dies too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lanes.debian import CanNot

VARIABLE = "PGCW_SYSTEMD_MACHINE"  # has the first process, for the tests
PROGRAMS = {"mmdebstrap": "mmdebstrap", "nsenter": "util-linux", "setpriv": "util-linux", "unshare": "util-linux"}
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
START_S = 60.0
COMMAND_S = 120.0
POLL_S = 0.05
# systemd wants a control group of version 2 below which everything is its own, and mounts that its services' own
# namespaces hear of: credentials are mounted by a child.
ENTER = """\
echo $$ > "$1/cgroup.procs"
exec setpriv --pdeathsig KILL unshare --mount --uts --ipc --net --cgroup --pid --fork --kill-child \\
  --propagation private sh -ec "$3" sh "$2"
"""
BOOT = """\
mount -t tmpfs -o mode=0755 tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
cd /mnt/root
mount -t proc proc proc
mount -o bind,ro proc/sys proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755,nosuid tmpfs dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=0755 tmpfs run
pivot_root . mnt
umount -l /mnt
mount --make-rshared /
exec env -i PATH=/usr/sbin:/usr/bin container=lane /lib/systemd/systemd --log-target=console --show-status=0
"""


class Machine:
    """A machine that runs, known by its first process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--all", "--", *words]

    def try_run(self, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[str]:
        """As root. What is said on standard error is in the answer's `stdout` too."""
        done = subprocess.run(
            self.command(*words),
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": PATH, "LANG": "C.UTF-8"},
            timeout=COMMAND_S,
            check=False,
        )
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(errors="replace").strip())

    def run(self, *words: str, given: bytes = b"") -> str:
        """What it said. Raises AssertionError with that when it failed."""
        done = self.try_run(*words, given=given)
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def write(self, path: str, content: str | bytes, *, mode: str = "644") -> None:
        given = content.encode() if isinstance(content, str) else content
        self.run("install", "-D", f"--mode={mode}", "/dev/stdin", path, given=given)


def require() -> None:
    """Raises CanNot."""
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        raise CanNot(f"apt-get install --no-install-recommends {' '.join(missing)}")
    if os.geteuid() != 0:
        raise CanNot("namespaces of a whole machine have to be made by root")


@contextmanager
def running(tree: Path, log: Path) -> Iterator[Machine]:
    """Started up, with all its services."""
    with _control_group() as group, log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-ec", ENTER, "sh", str(group), str(tree), BOOT],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield _started(process, log)
        finally:
            process.kill()  # and with it, by unshare's --kill-child, the first process and all others
            process.wait()


@contextmanager
def _control_group() -> Iterator[Path]:
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    root = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if root is None:
        raise CanNot("no control groups of version 2 are mounted: mount -t cgroup2 cgroup2 SOMEWHERE")
    group = root / f"pgcw-lane-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise CanNot(f"no control group can be made: {error}") from error
    try:
        yield group
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    with suppress(OSError):
        (group / "cgroup.kill").write_text("1", encoding="ascii")
    deadline_s = time.monotonic() + START_S
    while group.exists() and time.monotonic() < deadline_s:
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):  # somebody in it has not ended yet
                Path(folder).rmdir()
        time.sleep(POLL_S)


def _started(process: subprocess.Popen[bytes], log: Path) -> Machine:
    """Raises CanNot with what was said when it does not come up."""
    deadline_s = time.monotonic() + START_S
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and time.monotonic() < deadline_s:
        with suppress(OSError, ValueError, IndexError):
            machine = Machine(int(children.read_text(encoding="ascii").split()[0]))
            if Path(f"/proc/{machine.pid}/comm").read_text(encoding="ascii").strip() == "systemd":
                state = machine.try_run("systemctl", "is-system-running", "--wait").stdout
                if state in ("running", "degraded"):
                    machine.run("systemctl", "log-target", "journal")  # where it is looked for from now on
                    return machine
        time.sleep(POLL_S)
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
    raise CanNot("systemd does not come up here:\n" + "\n".join(said))
