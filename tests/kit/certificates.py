"""Certificates for localhost."""

import shutil
import subprocess
from pathlib import Path


def make_certificate(folder: Path) -> tuple[str, str]:
    """Make a certificate and its key in *folder*, and give their paths. Needs OpenSSL."""
    openssl = shutil.which("openssl")
    assert openssl is not None
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return certificate, key
