"""Certificates for tests: an authority of one's own, and what it signs, as PEM files.

    authority = Authority(tmp_path)
    certificate, key = authority.issue("relay")

Each is for localhost and 127.0.0.1 unless names are given. Keys are of the kind that costs least.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM


class Authority:
    """Signs certificates; its own is `file`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.file = folder / f"{name}.pem"
        builder = _builder(self._name, self._name, self._key.public_key(), DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
        self.file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(PEM))

    def issue(
        self, name: str, *, common_name: str | None = None, ends_in: datetime.timedelta = DAY, passphrase: str = ""
    ) -> tuple[Path, Path]:
        """Certificate and key; written over those of the same name."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named(name if common_name is None else common_name), self._name, key.public_key(), ends_in)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate_file, key_file = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        certificate_file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(PEM))
        key_file.write_bytes(_pem(key, passphrase))
        return certificate_file, key_file

    def client(self, *, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What a client uses that trusts this authority and no other."""
        context = ssl.create_default_context(cafile=self.file)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, ends_in: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(tz=datetime.UTC)
    ends = now + ends_in
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return (
        builder.serial_number(x509.random_serial_number()).not_valid_before(min(now, ends) - DAY).not_valid_after(ends)
    )


def _pem(key: ec.EllipticCurvePrivateKey, passphrase: str) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption)
