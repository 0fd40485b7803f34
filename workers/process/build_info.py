"""What is deployed, as a short fingerprint: it changes with the code of caselog and of the registered events."""

from __future__ import annotations

import hashlib
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from caselog.events.model.registry import EventRegistry

_LENGTH: Final = 12


def installed_version() -> str | None:
    """The version of caselog; None where it runs without being installed."""
    try:
        return version("caselog")
    except PackageNotFoundError:
        return None


def deploy_fingerprint(registry: EventRegistry, commit_id: str | None) -> str:
    """The same for all recorders of a deploy, another one where version, commit or any event's class or code differs.

    A class is known by its codes and by the bytes of its module: a rule that was mended leaves the codes as they were.
    """
    digest = hashlib.sha256(f"{installed_version()} {commit_id}".encode())
    modules = set()
    for key, cls in registry.all().items():
        modules.add(cls.__module__)
        codes = sorted((name, sorted(map(_told, fields.items()))) for name, fields in cls.codes.items())
        digest.update(repr((key, codes)).encode())
    for name in sorted(modules):
        source = getattr(sys.modules.get(name), "__file__", None)
        digest.update(name.encode() + (Path(source).read_bytes() if source and Path(source).is_file() else b""))
    return digest.hexdigest()[:_LENGTH]


def _told(item: tuple[str, object]) -> tuple[str, str]:
    """A callable's address differs from process to process; its name does not."""
    name, value = item
    return name, getattr(value, "__qualname__", type(value).__qualname__) if callable(value) else repr(value)
