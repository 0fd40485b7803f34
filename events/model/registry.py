"""The registry: which events an organisation knows, under which keys, with which codes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Final

import msgspec

from caselog.events.credentials import hide
from caselog.events.errors import CodeNotResolved, RegistrationError, UnknownCode, UnknownEvent, did_you_mean
from caselog.events.model.codes import NAME_CHARACTERS, Code, parse_code
from caselog.events.model.columns import Guarded
from caselog.events.model.state import CaseState, Log

BUNDLED_APPS: Final = tuple(
    f"caselog.events.apps.{name}"
    for name in (
        "legalaid",
        "call_centre",
        "cla_provider",
        "diagnosis",
        "knowledgebase",
        "complaints",
        "mcc",
        "timer",
    )
)
BUNDLED: Final = "caselog.events.apps."
ENTRY_POINT_GROUP: Final = "caselog.apps"


class BaseEvent:
    """What can happen, under one key. Subclass it in an app's `events.py` and register the class.

    `codes` maps each code to its fields (docs/events.md "A code"). `creates_case`, `starts_timer` and
    `cancels_timer` name the codes that do so. `needs_case = False` is for events that are about no case.
    `distinguished_by` names the context members that tell two outcomes of the same day, code and notes apart where
    they write no column of the case: by default, such a second one is suppressed. `code_by_params = True` says that
    `get_log_code` looks at nothing but the params: then `check` is given the code also where the event gives none,
    before any case is looked for.
    """

    key: ClassVar[str]
    codes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    needs_case: ClassVar[bool] = True
    code_by_params: ClassVar[bool] = False
    creates_case: ClassVar[tuple[str, ...]] = ()
    starts_timer: ClassVar[tuple[str, ...]] = ()
    cancels_timer: ClassVar[tuple[str, ...]] = ()
    distinguished_by: ClassVar[tuple[str, ...]] = ()

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:  # noqa: ARG002 - for subclasses
        """The code of an event that does not give one (docs/rules.md §1.3). `params` is the event's `data.params`.

        `case` is the case as folded up to this event; None for an event that may create it. Raise `EventRejected`
        with the reason to refuse.
        """
        if len(self.codes) == 1:
            return next(iter(self.codes))
        raise CodeNotResolved(
            f"event {self.key!r} has no code, and {self.key!r} has {len(self.codes)} to choose from "
            f"({', '.join(self.codes) or 'none'}): send data.code, or let get_log_code of the event class decide."
        )

    def get_repeated_code(self, case: CaseState, context: dict[str, Any]) -> str | None:  # noqa: ARG002 - for subclasses
        """The code of what the event says a second time, told by its context; None where it says something new.

        Asked before `get_log_code` of an event that gives no code, once its case is known. So what is sent twice does
        not come to the code that would be next.
        """
        return None

    def check(self, code: str | None, context: dict[str, Any]) -> None:
        """Refuse an event for what it says itself, before any case is looked at (docs/rules.md §1.4).

        `code` is None while it is not resolved yet. Raise `EventRejected` with the reason and the remedy.
        """

    def acts_on(self, case: CaseState, log: Log) -> bool:  # noqa: ARG002 - for subclasses
        """Whether the log does to the case what its code and `apply` say. False: it is an outcome, and no more.

        `case` is the case before the log. Unlike a suppressed log, one that does not act counts in reports.
        """
        return True

    def suppresses(self, case: CaseState, log: Log) -> bool:  # noqa: ARG002 - for subclasses
        """Whether the log adds nothing to the case, and is kept without effect (docs/rules.md §3)."""
        return False

    def apply(self, case: CaseState, log: Log) -> None:
        """What else the log does to the case: set attributes of `case`, in memory only (docs/rules.md §5)."""

    @classmethod
    def get_ordered_codes(cls) -> dict[str, Code]:
        """The class's codes by their `order`, then as declared; each code with its definition."""
        codes = [
            msgspec.structs.replace(
                parse_code(cls.__name__, cls.key, name, fields),
                creates_case=name in cls.creates_case,
                starts_timer=name in cls.starts_timer,
                cancels_timer=name in cls.cancels_timer,
                distinguished_by=tuple(cls.distinguished_by),
            )
            for name, fields in cls.codes.items()
        ]
        return {code.code: code for code in sorted(codes, key=lambda code: code.order)}


class Registered:
    """An event class in the registry: the one instance that answers for it, and its parsed codes."""

    def __init__(self, cls: type[BaseEvent]) -> None:
        self.cls = cls
        # The rules that come with caselog are known to end, and to set what a column may hold.
        self.is_bundled = cls.__module__.startswith(BUNDLED)
        self.event = cls() if self.is_bundled else Guarded(cls())
        self.codes = _parse(cls)
        # Skipping a hook that a class does not have is most of the fold's time for most events.
        self.checks = cls.check is not BaseEvent.check
        self.applies = cls.apply is not BaseEvent.apply
        self.may_repeat = cls.get_repeated_code is not BaseEvent.get_repeated_code
        self.always_acts = cls.acts_on is BaseEvent.acts_on
        self.may_suppress = cls.suppresses is not BaseEvent.suppresses


class EventRegistry:
    """Event classes by key."""

    def __init__(self) -> None:
        self._registered: dict[str, Registered] = {}
        self._retired: dict[tuple[str, str], Code] = {}

    def register(self, cls: type[BaseEvent]) -> type[BaseEvent]:
        """Register a class under its key; also usable as a class decorator. The same class again changes nothing.

        Raises `RegistrationError` where the class is not well formed or the key belongs to another class.
        """
        candidate: Any = cls
        if not isinstance(candidate, type) or not issubclass(candidate, BaseEvent):
            raise RegistrationError(f"register() takes a subclass of BaseEvent, got {candidate!r}.")
        key = getattr(cls, "key", None)
        if not isinstance(key, str) or not key or len(key) > NAME_CHARACTERS or not key.isprintable():
            raise RegistrationError(
                f"{cls.__name__}.key must be a printable string of 1 to {NAME_CHARACTERS} characters, got {key!r}."
            )
        there = self._registered.get(key)
        if there is not None and there.cls is not cls:
            raise RegistrationError(
                f"key {key!r} of {_path(cls)} is taken by {_path(there.cls)}: give one of them another key."
            )
        if there is None:
            self._registered[key] = Registered(cls)
        return cls

    def find_event(self, key: str) -> Registered | None:
        """The registered class with its parsed codes; None where the key is unknown."""
        return self._registered.get(key)

    def registered(self, key: str) -> Registered:
        """The registered class with its parsed codes, for the resolver and the fold. Raises `UnknownEvent`."""
        try:
            return self._registered[key]
        except KeyError:
            raise UnknownEvent(
                f"no event class is registered under {key!r}.{did_you_mean(key, list(self._registered))} Register it "
                f"in an events.py of an app in CASELOG_APPS and run: caselog dead requeue --reason unknown_event"
            ) from None

    def get_event(self, key: str) -> type[BaseEvent]:
        """The class registered under the key. Raises `UnknownEvent`, naming the nearest key."""
        return self.registered(key).cls

    def get_code(self, key: str, code: str) -> Code:
        """The definition of a code under a key. Raises `UnknownEvent` or `UnknownCode`."""
        codes = self.registered(key).codes
        try:
            return codes[code]
        except KeyError:
            has = ", ".join(repr(name) for name in codes) or "no codes at all"
            raise UnknownCode(
                f"code {code!r} is not registered under {key!r} (it has {has}).{did_you_mean(code, list(codes))} "
                f"Register it in an events.py and run: caselog dead requeue --reason unknown_code"
            ) from None

    def retire(self, code: Code) -> None:
        """Fold stored logs of a code that is no longer registered as this definition says.

        New events of it are refused as before; where the code is registered after all, that definition holds.
        """
        self._retired[code.key, code.code] = code

    def find(self, key: str, code: str) -> tuple[Code | None, Registered | None]:
        """What a stored log's code means: the code, registered or retired, and the class, each None where unknown."""
        registered = self._registered.get(key)
        found = None if registered is None else registered.codes.get(code)
        return found or self._retired.get((key, code)), registered

    def folded_codes(self) -> list[Code]:
        """Every code that stored logs may have: the registered ones and the retired ones."""
        codes = self.codes()
        known = {(code.key, code.code) for code in codes}
        return codes + [code for name, code in sorted(self._retired.items()) if name not in known]

    def all(self) -> dict[str, type[BaseEvent]]:
        """Every registered class by key, sorted by key."""
        return {key: self._registered[key].cls for key in sorted(self._registered)}

    def codes(self) -> list[Code]:
        """Every registered code, sorted by key, then in the order of `get_ordered_codes`."""
        return [code for key in sorted(self._registered) for code in self._registered[key].codes.values()]

    def filter(self, **fields: Any) -> list[Code]:
        """The codes whose fields equal those given, such as `filter(type=LogType.OUTCOME, stops_timer=True)`.

        Raises `TypeError` for a field that codes do not have.
        """
        for field in fields:
            if field not in Code.__struct_fields__:
                known = ", ".join(Code.__struct_fields__)
                raise TypeError(f"codes have no field {field!r}; they have {known}.")
        return [code for code in self.codes() if all(getattr(code, field) == value for field, value in fields.items())]

    def get_selectable_events(self, role: str) -> dict[str, dict[str, Code]]:
        """What an actor of this role may choose: each key with its codes in order; keys without any left out."""
        selectable = {
            key: {name: code for name, code in self._registered[key].codes.items() if code.selectable_for(role)}
            for key in sorted(self._registered)
        }
        return {key: codes for key, codes in selectable.items() if codes}

    def snapshot(self) -> dict[str, Registered]:
        return dict(self._registered)

    def restore(self, snapshot: dict[str, Registered]) -> None:
        self._registered = dict(snapshot)


event_registry: Final = EventRegistry()


def autodiscover(apps: Iterable[str] | None = None, registry: EventRegistry = event_registry) -> None:
    """Import `<app>.events` of every app, and of every entry point in the group `caselog.apps`.

    `apps` are package names (default: the bundled ones); a caller reads them from `CASELOG_APPS`. An app without the
    module is skipped. Raises `RegistrationError` that names the module where one fails to import; the registry is
    then as it was, and after the mend the same call imports it again.
    """
    before, modules, asked = registry.snapshot(), set(sys.modules), set[str]()
    try:
        for app in BUNDLED_APPS if apps is None else apps:
            asked.add(f"{app}.events")
            _import_events(app)
        for entry in entry_points(group=ENTRY_POINT_GROUP):
            asked |= {entry.module, f"{entry.module}.events"}
            _load(entry, registry)
    except BaseException:  # a Ctrl-C in the middle, too, leaves the registry as it was
        registered = {there.cls.__module__ for key, there in registry.snapshot().items() if key not in before}
        registry.restore(before)
        # Imported again after the mend, these modules must register their classes again.
        for name in (asked | registered) - modules:
            sys.modules.pop(name, None)
        raise


def _import_events(app: str) -> None:
    # Before it is looked for: in the project's own folder there is a package of that name, a second copy of the app.
    if (renamed := f"caselog.{app}") in BUNDLED_APPS:
        raise RegistrationError(f"CASELOG_APPS names {app!r}, which is called {renamed!r} now. Name it so.")
    if not _exists(app):
        raise RegistrationError(
            f"CASELOG_APPS names {app!r}, and no such package can be imported. Check the spelling, and that it is "
            f"installed or on PYTHONPATH."
        )
    if _exists(f"{app}.events"):
        with _naming(f"{app}.events"):
            importlib.import_module(f"{app}.events")


def _exists(module: str) -> bool:
    """Whether there is such a module. Its parent packages are imported for it, which may fail."""
    parent, _, _ = module.rpartition(".")
    try:
        with _naming(parent or module):
            return importlib.util.find_spec(module) is not None
    except RegistrationError as error:
        cause = error.__cause__
        if (
            isinstance(cause, ModuleNotFoundError)
            and cause.name is not None
            and f"{module}.".startswith(f"{cause.name}.")
        ):
            return False
        raise


def _load(entry: EntryPoint, registry: EventRegistry) -> None:
    """An entry point names an app, its `events` module, or one event class in it."""
    with _naming(f"entry point {entry.name!r} ({entry.value!r}) of the group {ENTRY_POINT_GROUP}"):
        loaded = entry.load()
    if isinstance(loaded, type) and issubclass(loaded, BaseEvent):
        registry.register(loaded)
    elif hasattr(loaded, "__path__"):
        _import_events(entry.value)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Turn what an import raises into an error that says what was imported."""
    try:
        yield
    except RegistrationError as error:
        raise RegistrationError(f"{what}: {error}") from error
    except Exception as error:
        raise RegistrationError(f"{what} failed to import: {type(error).__name__}: {hide(str(error))}") from error


def _parse(cls: type[BaseEvent]) -> dict[str, Code]:
    if not isinstance(cls.codes, Mapping):
        raise RegistrationError(f"{cls.__name__}.codes must be a dict of codes, got {cls.codes!r}.")
    for attribute in ("creates_case", "starts_timer", "cancels_timer"):
        names = getattr(cls, attribute)
        missing = [name for name in names if name not in cls.codes] if isinstance(names, tuple | list) else [names]
        if missing:
            raise RegistrationError(
                f"{cls.__name__}.{attribute} must be a tuple of the class's own codes, got {names!r}."
            )
    told_apart: Any = cls.distinguished_by
    if (
        not isinstance(told_apart, tuple | list)
        or not all(isinstance(name, str) and name and name.isprintable() for name in told_apart)
        or len(set(told_apart)) < len(told_apart)
    ):
        raise RegistrationError(
            f"{cls.__name__}.distinguished_by must be a tuple of names of context members, each once, such as "
            f'("room",), got {told_apart!r}.'
        )
    codes = cls.get_ordered_codes()
    if not cls.needs_case and (stopping := [name for name, code in codes.items() if code.stops_timer]):
        raise RegistrationError(
            f"{cls.__name__}.codes[{stopping[0]!r}]: 'stops_timer' bills the timer to the event's case, and "
            f"needs_case = False says that there is none. Let the code be in the class's cancels_timer, or need a case."
        )
    return codes


def _path(cls: type[BaseEvent]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
