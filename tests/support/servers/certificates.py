"""A certificate authority of a test's own, and a server's certificate of it for 127.0.0.1; made with openssl."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROGRAM: Final = shutil.which("openssl")
_DAYS: Final = "2"


@dataclass(frozen=True)
class Certificates:
    """Files in PEM: of the authority, and of the server its certificate and its key."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(directory: Path) -> Certificates:
    """In this directory, which must be there; whoever may enter it may read all of them."""
    assert PROGRAM is not None
    made = Certificates(*(directory / name for name in ("ca.pem", "server.pem", "server.key")))
    authority_key, request, names = (directory / name for name in ("ca.key", "server.csr", "names"))
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=caselog")
    own = ("-x509", "-days", _DAYS, "-keyout", str(authority_key), "-out", str(made.authority))
    _openssl("req", *key, *own)
    _openssl("req", *key, "-keyout", str(made.key), "-out", str(request))
    signed = ("-CA", str(made.authority), "-CAkey", str(authority_key), "-CAcreateserial", "-extfile", str(names))
    _openssl("x509", "-req", "-in", str(request), "-days", _DAYS, "-out", str(made.certificate), *signed)
    made.key.chmod(0o644)
    return made


def _openssl(*arguments: str) -> None:
    assert PROGRAM is not None
    subprocess.run([PROGRAM, *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)
