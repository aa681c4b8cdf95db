"""Files that do not work are refused in one sentence, and never take the place of those that do."""

from __future__ import annotations

import datetime
import logging
import os
import ssl
from pathlib import Path

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.io.websocket.certificates import Certificates, TlsOptions
from tests.certificates import DAY, Authority


def options(pair: tuple[Path, Path], client_ca: Path | str = "") -> TlsOptions:
    return TlsOptions(str(pair[0]), str(pair[1]), str(client_ca))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_sound_pair_is_served_with_tls_1_2_or_newer(authority: Authority) -> None:
    certificates = Certificates(options(authority.issue("relay")))
    assert certificates.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert certificates.context.verify_mode == ssl.CERT_NONE
    left_s = certificates.not_after_s - datetime.datetime.now(tz=datetime.UTC).timestamp()
    assert 0 < left_s <= 86_400


def test_a_key_may_stand_in_the_file_of_the_certificate(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("relay")
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    TlsOptions(str(both)).check()


def test_with_a_client_ca_a_certificate_is_required(authority: Authority) -> None:
    certificates = Certificates(options(authority.issue("relay"), authority.file))
    assert certificates.context.verify_mode == ssl.CERT_REQUIRED


def test_files_that_do_not_work_are_refused_in_one_sentence(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("relay")
    _, other_key = authority.issue("other")
    _, encrypted_key = authority.issue("encrypted", passphrase="secret")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("not PEM")
    missing = tmp_path / "missing.pem"
    cases = {
        options((missing, key)): r"missing\.pem can not be read \(No such file",
        options((certificate, tmp_path)): r"can not be read \(Is a directory",
        options((certificate, other_key)): r"other\.key does not belong to the certificate in .*relay\.crt",
        options((certificate, encrypted_key)): r"encrypted\.key is encrypted, .* store it without one",
        options((nonsense, key)): r"nonsense\.pem and .*relay\.key are no certificate and key in PEM form",
        options((certificate, key), nonsense): r"tls_client_ca_file .*nonsense\.pem holds no certificate",
        TlsOptions(key_file=str(key)): r"do nothing without tls_certificate_file",
    }
    for wrong, text in cases.items():
        with pytest.raises(ConfigurationError, match=text) as caught:
            wrong.check()
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="this user may read every file")
def test_a_key_that_others_own_is_refused(authority: Authority) -> None:
    certificate, key = authority.issue("relay")
    key.chmod(0)
    with pytest.raises(ConfigurationError, match=r"relay\.key can not be read \(Permission denied"):
        options((certificate, key)).check()


@pytest.mark.parametrize(("ends_in", "words"), [(-DAY, "has expired"), (3 * DAY, "expires soon")])
def test_a_certificate_near_its_end_is_served_with_a_warning(
    authority: Authority, caplog: pytest.LogCaptureFixture, ends_in: datetime.timedelta, words: str
) -> None:
    Certificates(options(authority.issue("relay", ends_in=ends_in)))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert words in caplog.text


def test_a_changed_pair_is_taken_once_both_files_are_there(authority: Authority) -> None:
    certificates = Certificates(options(authority.issue("relay", ends_in=100 * DAY)))
    before = certificates.context
    certificates.look()
    assert certificates.context is before
    authority.issue("relay", ends_in=200 * DAY)
    certificates.look()
    assert certificates.context is before, "it may still be written"
    certificates.look()
    assert certificates.context is not before
    renewed = certificates.context
    certificates.look()
    assert certificates.context is renewed, "once"


def test_a_bad_new_pair_is_one_error_line_and_the_one_before_stays(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = authority.issue("relay", ends_in=100 * DAY)
    certificates = Certificates(options((certificate, key)))
    before = certificates.context
    certificate.write_text("half of a certi")
    for _ in range(4):
        certificates.look()
    assert certificates.context is before
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "relay.crt" in caplog.text
    authority.issue("relay", ends_in=100 * DAY)
    for _ in range(2):
        certificates.look()
    assert certificates.context is not before


def test_files_that_vanish_are_an_error_line_and_nothing_more(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = authority.issue("relay", ends_in=100 * DAY)
    certificates = Certificates(options((certificate, key)))
    before = certificates.context
    key.unlink()
    for _ in range(3):
        certificates.look()
    assert certificates.context is before
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
