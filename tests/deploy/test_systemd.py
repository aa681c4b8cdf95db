"""The systemd unit: well-formed, shutting the relay in, which lives with what can be tried without systemd."""

from __future__ import annotations

import configparser
import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.tidy.tree import ROOT

UNIT = ROOT / "deploy" / "systemd" / "pgcachewatch.service"
PROGRAM = "/opt/pgcachewatch/bin/pgcachewatch"
EXPOSURE_LIMIT = 1.5  # systemd calls this OK; what is left is the network, which is what it is for
EXPOSURE = re.compile(r"Overall exposure level for \S+: ([\d.]+)")
PR_GET_MDWE = 66
WRAPPER = """\
#!{python}
import ctypes, os, sys
PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 38, 65, 1
prctl = ctypes.CDLL(None).prctl
if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit("the kernel did not do what was asked")
os.umask(0o077)
os.execv("{python}", ["{python}", *sys.argv[1:]])
"""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def option(section: str, name: str) -> str:
    unit = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep the case of names
    unit.read_string(UNIT.read_text(encoding="utf-8"))
    return unit[section][name]


def test_unit_is_well_formed(tmp_path: Path) -> None:
    """`verify` ends with 0 whatever it finds, so that what it prints is looked at."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace(PROGRAM, sys.executable), encoding="utf-8")

    assert analyze("verify", "--man=no", str(copy)).stderr == ""


def test_unit_leaves_the_relay_little() -> None:
    answer = analyze("security", "--offline=true", "--no-pager", str(UNIT))

    found = EXPOSURE.search(answer.stdout)
    assert found, answer.stdout + answer.stderr
    assert float(found[1]) <= EXPOSURE_LIMIT


def test_unit_waits_longer_for_the_end_than_the_relay_takes() -> None:
    reference = (ROOT / "config" / "pgcachewatch.toml").read_text(encoding="utf-8")
    grace = re.search(r"^drain_grace_s = ([\d.]+)$", reference, re.MULTILINE)

    assert grace
    assert float(option("Service", "TimeoutStopSec").removesuffix("s")) > 2 * float(grace[1])


@pytest.fixture
def shut_in(tmp_path: Path) -> str:
    """A Python that demands of itself what the unit demands and a process can."""
    if ctypes.CDLL(None).prctl(PR_GET_MDWE, 0, 0, 0, 0) < 0:
        pytest.skip("this kernel can not deny memory that is writable and executable but by systemd's filter")
    wrapper = tmp_path / "python"
    wrapper.write_text(WRAPPER.format(python=sys.executable), encoding="utf-8")
    wrapper.chmod(0o755)
    return str(wrapper)


def test_relay_serves_without_memory_that_is_writable_and_executable(
    shut_in: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shut_in)

    with RelayProcess(database.dsn) as relay:  # entered when it is ready
        assert relay.get("/livez")[0] == 200


def test_signatures_are_verified_without_such_memory(shut_in: str) -> None:
    program = (
        "import jwt; from cryptography.hazmat.primitives.asymmetric import ec; "
        "key = ec.generate_private_key(ec.SECP256R1()); "
        "print(jwt.decode(jwt.encode({'sub': 'x'}, key, 'ES256'), key.public_key(), ['ES256']))"
    )

    answer = subprocess.run([shut_in, "-c", program], capture_output=True, text=True, check=False)

    assert answer.stdout == "{'sub': 'x'}\n", answer.stderr
