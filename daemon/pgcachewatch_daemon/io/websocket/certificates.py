"""The certificate that new connections are secured with, read from files and read anew when they change.

A pair that does not work is refused in one sentence: at the start it ends the relay, later it leaves the one before in
use. Connections that are open go on with what they began with.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.lines import line_logger

SOON_S = 14 * 86_400.0

logger = line_logger(__name__)

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Paths of PEM files. Without a certificate there is no TLS; with a client CA each client needs a certificate.

    Without a key file the key stands in the file of the certificate.
    """

    certificate_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""

    @property
    def is_on(self) -> bool:
        return bool(self.certificate_file)

    def check(self) -> None:
        """Raises ConfigurationError, in one sentence, for files that do not work."""
        if self.files:
            _loaded(self)

    @property
    def files(self) -> Sequence[str]:
        return [path for path in (self.certificate_file, self.key_file, self.client_ca_file) if path]


class Certificates:
    """What new connections are secured with. Raises ConfigurationError, in one sentence, for files that do not work."""

    def __init__(self, options: TlsOptions) -> None:
        self._options = options
        self._stamp = self._seen = _stamp(options)
        self.context, self.not_after_s = _loaded(options)
        _warn_of_expiry(options, self.not_after_s)

    def _renew(self) -> None:
        options = self._options
        self._stamp = self._seen
        try:
            context, not_after_s = _loaded(options)
        except ConfigurationError as error:
            logger.error("tls certificate not renewed, the one before stays", error=str(error))
            return
        self.context, self.not_after_s = context, not_after_s
        logger.info("tls certificate renewed", file=options.certificate_file, not_after=_day(not_after_s))
        _warn_of_expiry(options, not_after_s)

    def look(self) -> None:
        """Renew when the files have changed and are as they were at the look before: a pair is written file by file."""
        stamp = _stamp(self._options)
        is_settled, self._seen = stamp == self._seen, stamp
        if is_settled and stamp != self._stamp:
            self._renew()


class _Encrypted(Exception):
    """The key wants a passphrase."""


def _loaded(options: TlsOptions) -> tuple[ssl.SSLContext, float]:
    """A context of these files, and when the certificate ends, in seconds since 1970."""
    if not options.certificate_file:
        raise ConfigurationError(
            "tls_key_file and tls_client_ca_file do nothing without tls_certificate_file; set all, or none"
        )
    for path in options.files:
        _check_readable(path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # clients keep one connection; tickets for a next one would cost each handshake
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, options)
    if options.client_ca_file:
        try:
            context.load_verify_locations(options.client_ca_file)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"tls_client_ca_file {options.client_ca_file} holds no certificate in PEM form ({_reason(error)})"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context, _not_after_s(options.certificate_file)


def _load_pair(context: ssl.SSLContext, options: TlsOptions) -> None:
    certificate, key = options.certificate_file, options.key_file or options.certificate_file

    def refuse() -> str:
        raise _Encrypted

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except _Encrypted as error:
        raise ConfigurationError(
            f"the key in {key} is encrypted, and a relay has nobody to ask for its passphrase; "
            "store it without one, readable by the relay's user alone"
        ) from error
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(f"the key in {key} does not belong to the certificate in {certificate}") from error
        raise ConfigurationError(
            f"{certificate} and {key} are no certificate and key in PEM form ({_reason(error)})"
        ) from error


def _check_readable(path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigurationError(f"the TLS file {path} can not be read ({error.strerror})") from error


def _not_after_s(path: str) -> float:
    # Here and not above: a relay without TLS need not load it.
    from cryptography.x509 import load_pem_x509_certificates

    # The first is the relay's own, those behind it lead to its authority.
    return load_pem_x509_certificates(Path(path).read_bytes())[0].not_valid_after_utc.timestamp()


def _warn_of_expiry(options: TlsOptions, not_after_s: float) -> None:
    left_s = not_after_s - time.time()
    facts = {"file": options.certificate_file, "not_after": _day(not_after_s)}
    if left_s <= 0:
        logger.warning("tls certificate has expired, clients will refuse it", **facts)
    elif left_s < SOON_S:
        logger.warning("tls certificate expires soon", **facts)


def _day(moment_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment_s))


def _reason(error: ssl.SSLError) -> str:
    return error.reason or str(error)


def _stamp(options: TlsOptions) -> Stamp:
    """Changes when a file does, or what a link leads to."""
    return tuple(_stamp_of(path) for path in options.files)


def _stamp_of(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)
