"""A small Debian as a tree of files, made by mmdebstrap from the archive that this machine itself is made of."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

SUITE = "trixie"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")  # as in Debian's slim image


class CanNot(Exception):
    """The lane can not run here; the text says what to do."""


def make(target: Path, *, suite: str = SUITE, packages: Sequence[str] = (), hooks: Sequence[str] = ()) -> None:
    """A tree, or an archive when `target` ends with .tar; all of it or nothing.

    The authorities that this machine knows come along, or pip could not reach the machine's package index from within.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"unfinished-{target.name}")
    remove(unfinished)
    included, run_there = list(packages), list(hooks)
    if CERTIFICATES.exists():
        included.insert(0, "ca-certificates")
        run_there.insert(0, f"upload {CERTIFICATES} {CERTIFICATES}")
    command = [
        # Its mounts below the target, of devices too, are gone with it however it ends.
        *("unshare", "--mount", "--propagation", "private"),
        "mmdebstrap",
        "--quiet",
        f"--format={'tar' if target.suffix == '.tar' else 'directory'}",
        "--variant=minbase",
        '--aptopt=Acquire::Check-Valid-Until "false"',  # a mirror may be a snapshot
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        *(f"--include={package}" for package in included),
        *(f"--customize-hook={hook}" for hook in run_there),
    ]
    subprocess.run([*command, suite, str(unfinished), _mirror()], check=True)
    unfinished.rename(target)


def remove(tree: Path) -> None:
    """Whatever is there. It stops at a mount rather than empty what is mounted."""
    subprocess.run(["rm", "--recursive", "--force", "--one-file-system", str(tree)], check=True)


def _mirror() -> str:
    """Where this machine has its own Debian from."""
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    )
    addresses = sorted({line for line in told.stdout.split() if line.rstrip("/").endswith("/debian")})
    if not addresses:
        raise CanNot("apt on this machine names no Debian archive to make a system from")
    return addresses[0]
