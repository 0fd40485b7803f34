"""The web pages' templates and the files that they load: all of them in this package, none from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar.types import Scope

from caselog.events.phrases import count_of, sentence
from caselog.workers.access.callers import Way, caller_of
from caselog.workers.access.refusals import AnyRequest
from caselog.workers.rows.text import label, visible

MEDIA_TYPES: Final = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


def make_environment() -> Environment:
    """Whatever a value says, it is text: every one is escaped."""
    environment = Environment(
        loader=PackageLoader("caselog.workers.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"label": label, "visible": visible, "count_of": count_of, "sentence": sentence}
    return environment


def static_files() -> Mapping[str, tuple[bytes, str]]:
    """Each file by its name, with its media type."""
    return {
        file.name: (file.read_bytes(), MEDIA_TYPES[suffix])
        for file in files("caselog.workers.web").joinpath("static").iterdir()
        if (suffix := file.name[file.name.rfind(".") :]) in MEDIA_TYPES
    }


def about(request: AnyRequest) -> dict[str, Any]:
    """What each page knows of who looks at it, and where it is."""
    caller = caller_of(request)
    return {
        "root": root_of(request.scope),
        "user": caller.name,
        "has_session": caller.way is Way.SESSION,
        "acts": caller.may_act,
        "personal": caller.reads_personal,
        "is_bound": caller.provider is not None,
    }


def root_of(scope: Scope) -> str:
    """The way from a page to where all pages begin: links are relative, so that a proxy may put them under a prefix."""
    # Not its path: Litestar takes a slash at the end away, which a browser reckons with.
    return "../" * (scope["raw_path"].count(b"/") - 1)
