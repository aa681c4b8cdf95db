"""From a bare `python3` to a running module in `.venv`: what `python3 daemon` and `python3 tests` share.

`run("pgcachewatch", ["serve"])` makes `.venv` from the hash-locked `deploy/locks/dev.txt` when it is missing
or out of date, and then becomes `.venv/bin/python -m pgcachewatch serve`. It needs only the standard library,
and uses uv when that is on PATH, else pip.

Invariants. A `.venv` without a matching stamp is never used: the stamp is written last, so an interrupted
set-up is seen and done again. A `.venv` that was not begun here is never deleted. One set-up runs at a time,
by a file lock. Nothing is written outside `.venv`.

Annotations go through `typing` and the syntax is kept plain, so that an old Python 3 can run far enough to
look for a newer one, and else to say in one sentence what is missing.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List, NoReturn, Optional, Sequence

OLDEST_MINOR, NEWEST_MINOR = 11, 14
ROOT = Path(__file__).resolve().parent.parent
LOCK_FILE = ROOT / "deploy" / "locks" / "dev.txt"
STAMP_NAME = "pgcachewatch-stamp.json"
PROGRESS_EVERY = 15  # packages, between two lines of progress
KEPT_OUTPUT_LINES = 40  # of an installer, shown when it fails
# A person's own settings about where packages go would lead the installer out of .venv.
MISLEADING = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV", "PYTHONHOME")


class SetupFailed(Exception):
    """The environment can not be made; the text says what happened and what to do."""


def run(module: str, arguments: Sequence[str], work_directory: Optional[Path] = None) -> NoReturn:
    """Become `.venv/bin/python -m module arguments`, with `.venv` made or repaired first if need be.

    `work_directory` is entered just before. When the environment can not be made the process ends with status
    1 and a plain text on standard error, on Ctrl-C with 130. Example: `run("pytest", ["-x"], ROOT)`.
    """
    require_new_python()
    try:
        python = ready_python()
    except SetupFailed as error:
        sys.exit("\n%s" % error)
    except KeyboardInterrupt:
        say("stopped half-way; the next start does the set-up again")
        sys.exit(130)
    if work_directory is not None:
        os.chdir(str(work_directory))
    command = [str(python), "-m", module, *arguments]
    sys.stdout.flush()
    if os.name == "nt":  # exec on Windows returns to the shell at once, with the program still running
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


def require_new_python() -> None:
    """Return on a Python that is new enough; else go on under a newer one from PATH, or end with a remedy."""
    major, minor = sys.version_info[:2]
    if (major, minor) >= (3, OLDEST_MINOR):
        return
    for newer in range(NEWEST_MINOR, OLDEST_MINOR - 1, -1):
        candidate = shutil.which("python3.%d" % newer)
        if candidate is not None and _answers(candidate):
            say("Python %d.%d is too old, going on with %s" % (major, minor, candidate))
            os.execv(candidate, [candidate, *sys.argv])
    sys.exit(
        "PGCacheWatch needs Python 3.%d or newer; this is %d.%d (%s), and PATH has no python3.%d to 3.%d: "
        "install one of them." % (OLDEST_MINOR, major, minor, sys.executable, OLDEST_MINOR, NEWEST_MINOR)
    )


def _answers(python: str) -> bool:
    # A version manager puts stand-ins on PATH that fail when their version is not switched on.
    try:
        return subprocess.call([python, "-c", ""], stderr=subprocess.DEVNULL, timeout=20) == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def ready_python() -> Path:
    """The Python of an environment that matches the lock, made now if it has to be. Raises SetupFailed."""
    environment = Path(os.environ.get("PGCACHEWATCH_VENV") or ROOT / ".venv").absolute()
    wanted = _wanted_stamp()
    try:
        if _why_not_ready(environment, wanted) is not None:
            environment.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(environment):
                reason = _why_not_ready(environment, wanted)
                if reason is not None:
                    _set_up(environment, wanted, reason)
    except OSError as error:
        raise SetupFailed(
            "The environment %s can not be used: %s.\nIf the checkout is read-only or somebody else's, "
            "name a folder of your own with PGCACHEWATCH_VENV=/some/folder." % (environment, error)
        ) from error
    return _python_of(environment)


def _python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _base_python() -> str:
    # Inside a virtual environment this is the interpreter which that was made from.
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _wanted_stamp() -> Dict[str, str]:
    """What an environment must have been made from to be used as it is."""
    import tomllib  # not there in an old Python, which only gets as far as require_new_python

    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    # The linters' settings live in the same file, and a change there is no reason to install anything.
    packaging = [tables["build-system"], tables["project"], tables["tool"]["hatch"]]
    return {
        "interpreter": "%s 3.%d" % (_base_python(), sys.version_info[1]),
        "lock file": hashlib.sha256(LOCK_FILE.read_bytes()).hexdigest(),
        "packaging": hashlib.sha256(json.dumps(packaging, sort_keys=True).encode()).hexdigest(),
        "place of the checkout": str(ROOT),
    }


def _why_not_ready(environment: Path, wanted: Dict[str, str]) -> Optional[str]:
    """None when the environment can be used as it is, else the reason in words."""
    try:
        text = (environment / STAMP_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return "first start"
    if not text:
        return "the last set-up was interrupted"
    found = json.loads(text)
    changed = [name for name in wanted if found.get(name) != wanted[name]]
    if changed:
        return "changed: " + ", ".join(changed)
    return None if _python_of(environment).exists() else "its Python is gone"


@contextlib.contextmanager
def _one_at_a_time(environment: Path) -> Iterator[None]:
    """Hold the set-up lock; a second starter waits here, and then finds the environment ready."""
    if os.name == "nt":
        import msvcrt

        name = "pgcachewatch-setup-%s.lock" % hashlib.sha256(str(environment).encode()).hexdigest()[:16]
        with (Path(tempfile.gettempdir()) / name).open("a") as handle:
            msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined,unused-ignore]
            yield
        return
    import fcntl

    # The folder itself is locked: a lock file would be one more thing left in the checkout.
    descriptor = os.open(str(environment.parent), os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is setting up, waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _set_up(environment: Path, wanted: Dict[str, str], reason: str) -> None:
    stamp = environment / STAMP_NAME
    if environment.exists() and not stamp.exists() and any(environment.iterdir()):
        raise SetupFailed(
            "%s was not made by this script, so it is left alone.\nRemove it, or name another folder with "
            "PGCACHEWATCH_VENV=/some/folder, and start again." % environment
        )
    say("setting up %s with Python %s (%s)" % (environment, sys.version.split()[0], reason))
    environment.mkdir(exist_ok=True)
    # Empty from here to the end: whatever happens, what is left is known as ours and as unfinished.
    stamp.write_bytes(b"")
    _remove_all_but_stamp(environment)
    _install(environment)
    finished = environment / (STAMP_NAME + ".new")
    finished.write_text(json.dumps(wanted, indent=1, sort_keys=True), encoding="utf-8")
    finished.replace(stamp)
    say("ready")


def _remove_all_but_stamp(environment: Path) -> None:
    for entry in environment.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(str(entry))
        elif entry.name != STAMP_NAME:
            entry.unlink()


def _install(environment: Path) -> None:
    """Fill the empty environment with the locked packages and this checkout, by uv or else by pip."""
    uv = shutil.which("uv")
    has_pip = importlib.util.find_spec("ensurepip") is not None
    if uv is None and not has_pip:
        raise SetupFailed(
            "This Python (%s) can not make a virtual environment: it has no ensurepip module.\n"
            "On Debian or Ubuntu: apt install python3-venv. Anywhere: install uv. Then start again." % sys.executable
        )
    _call([_base_python(), "-m", "venv", str(environment), *([] if has_pip else ["--without-pip"])])
    python = str(_python_of(environment))
    if uv is not None:
        try:
            _install_with([uv, "pip", "install", "--python", python])
            return
        except SetupFailed as error:
            if not has_pip:
                raise
            say("uv did not manage, so pip is next. %s" % error)
    _install_with([python, "-m", "pip", "install", "--no-input", "--progress-bar", "off"])


def _install_with(installer: List[str]) -> None:
    count = sum(line[:1].isalnum() for line in LOCK_FILE.read_text(encoding="utf-8").splitlines())
    say("installing up to %d locked packages with %s" % (count, "pip" if "-m" in installer else "uv"))
    _call([*installer, "--require-hashes", "-r", str(LOCK_FILE)])
    say("installing this checkout")
    _call([*installer, "--no-build-isolation", "--no-deps", "-e", str(ROOT)])


def _call(command: List[str]) -> None:
    """Run one step with its output thinned to a line of progress now and then; its end in full on failure."""
    variables = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    # uv leaves compiling to the first import, which would slow down each start if .venv is read-only then.
    variables.update(UV_COMPILE_BYTECODE="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    process = subprocess.Popen(
        command,
        cwd=str(ROOT),
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    with process:
        kept = _follow(process)
    if process.returncode != 0:
        raise SetupFailed(
            "This step failed with status %d:\n  %s\n%s\nThe lines above say why; the next start tries again."
            % (process.returncode, " ".join(command), "".join("  | " + line for line in kept))
        )


def _follow(process: "subprocess.Popen[str]") -> List[str]:
    """Say every PROGRESS_EVERYth package as it comes; return the last lines, at most KEPT_OUTPUT_LINES."""
    kept = []  # type: List[str]
    packages = 0
    assert process.stdout is not None
    for line in process.stdout:
        kept = [*kept[1 - KEPT_OUTPUT_LINES :], line]
        if line.startswith("Collecting "):
            packages += 1
            if packages % PROGRESS_EVERY == 0:
                say("  %d packages so far" % packages)
        elif line.startswith(("Installing collected", "Prepared ", "Installed ", "Bytecode compiled ")):
            say("  " + line.strip()[:60])
    return kept


def say(text: str) -> None:
    """One plain line of progress, on standard error: standard output belongs to the program that follows."""
    print("[setup] " + text, file=sys.stderr, flush=True)
