"""A certificate authority of the double's own, and one certificate for all its nodes."""

from __future__ import annotations

import hashlib
import ssl
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509  # comes with JupyterHub, for its internal_ssl
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey


class Authority:
    """Makes its files in `folder`: `ca_file` is what a client trusts, `fingerprint` what it may pin instead."""

    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "pve-root-ca.pem"
        self._pair_file = folder / "pve-ssl.pem"
        self.fingerprint = ""
        self.renew()

    def renew(self) -> None:
        """Another authority, another certificate, in the same files."""
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Proxmox VE double")])
        ca = _certificate(ca_name, ca_name, ca_key, ca_key, authority=True)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pve-double")])
        server = _certificate(name, ca_name, key, ca_key, authority=False)
        pem = serialization.Encoding.PEM
        self.ca_file.write_bytes(ca.public_bytes(pem))
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self._pair_file.touch(mode=0o600)
        self._pair_file.write_bytes(private + server.public_bytes(pem))
        raw = hashlib.sha256(server.public_bytes(serialization.Encoding.DER)).hexdigest().upper()
        self.fingerprint = ":".join(raw[at : at + 2] for at in range(0, 64, 2))

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._pair_file)
        return context


def _certificate(name: x509.Name, issuer: x509.Name, key: Key, issuer_key: Key, *, authority: bool) -> x509.Certificate:
    now = datetime.now(timezone.utc)
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        decipher_only=False,
        **dict.fromkeys(others, False),
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
