"""The registry: event classes by key, and how apps are found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caselog.events.errors import CodeNotResolved, RegistrationError, UnknownCode, UnknownEvent
from caselog.events.model.codes import LogLevel, LogType, Role
from caselog.events.model.registry import BaseEvent, EventRegistry, autodiscover, event_registry

ROOT = Path(__file__).parents[3]


def code(**fields: Any) -> dict[str, Any]:
    return {
        "type": LogType.OUTCOME,
        "level": LogLevel.HIGH,
        "selectable_by": [],
        "description": "Something happened",
        "stops_timer": False,
        **fields,
    }


class Ticket(BaseEvent):
    key = "ticket"
    codes = {
        "CLOSED": code(order=20, stops_timer=True),
        "LATE": code(),
        "OPENED": code(order=10, type=LogType.SYSTEM),
        "LATER": code(selectable_by=[Role.OPERATOR]),
    }
    creates_case = ("OPENED",)


class Repair(BaseEvent):
    key = "repair"
    codes = {"REPAIRED": code(selectable_by=[Role.OPERATOR, Role.SPECIALIST])}


class Empty(BaseEvent):
    key = "empty"


@pytest.fixture
def registry() -> EventRegistry:
    registry = EventRegistry()
    for event in (Ticket, Repair, Empty):
        registry.register(event)
    return registry


class TestRegister:
    def test_the_same_class_again_changes_nothing(self, registry: EventRegistry) -> None:
        before = registry.all()
        registry.register(Ticket)
        assert registry.all() == before

    def test_a_second_class_for_a_key_is_an_error_that_names_both(self, registry: EventRegistry) -> None:
        other = type("OtherTicket", (BaseEvent,), {"key": "ticket"})
        with pytest.raises(RegistrationError, match=r"'ticket'.*OtherTicket.*Ticket"):
            registry.register(other)
        assert registry.get_event("ticket") is Ticket

    def test_it_is_a_decorator_too(self, registry: EventRegistry) -> None:
        @registry.register
        class Note(BaseEvent):
            key = "note"

        assert registry.get_event("note") is Note

    @pytest.mark.parametrize("thing", [None, 5, "ticket", object, Ticket(), {"key": "x"}])
    def test_what_is_no_event_class_is_refused(self, registry: EventRegistry, thing: Any) -> None:
        with pytest.raises(RegistrationError, match="subclass of BaseEvent"):
            registry.register(thing)

    @pytest.mark.parametrize("key", [None, "", 5, "a\nb", "x" * 101])
    def test_a_class_without_a_proper_key_is_refused(self, registry: EventRegistry, key: Any) -> None:
        with pytest.raises(RegistrationError, match=r"Keyless\.key"):
            registry.register(type("Keyless", (BaseEvent,), {"key": key}))
        with pytest.raises(RegistrationError, match=r"Keyless\.key"):
            registry.register(type("Keyless", (BaseEvent,), {}))

    @pytest.mark.parametrize("codes", [None, [], ["A"], "A"])
    def test_codes_are_a_dict(self, registry: EventRegistry, codes: Any) -> None:
        with pytest.raises(RegistrationError, match=r"Wrong\.codes must be a dict"):
            registry.register(type("Wrong", (BaseEvent,), {"key": "wrong", "codes": codes}))

    @pytest.mark.parametrize("attribute", ["creates_case", "starts_timer", "cancels_timer"])
    @pytest.mark.parametrize("names", ["OPENED", ("CLOSED",), None])
    def test_what_a_class_says_of_its_codes_must_be_about_its_own(
        self, registry: EventRegistry, attribute: str, names: Any
    ) -> None:
        wrong = type("Wrong", (BaseEvent,), {"key": "wrong", "codes": {"OPENED": code()}, attribute: names})
        with pytest.raises(RegistrationError, match=rf"Wrong\.{attribute} must be a tuple"):
            registry.register(wrong)

    @pytest.mark.parametrize("names", ["room", None, ("",), ("room", 5), ("room", "room"), {"room": 1}, ("a\x00b",)])
    def test_what_tells_outcomes_apart_is_a_tuple_of_names(self, registry: EventRegistry, names: Any) -> None:
        wrong = type("Wrong", (BaseEvent,), {"key": "wrong", "codes": {"A": code()}, "distinguished_by": names})
        with pytest.raises(RegistrationError, match=r"Wrong\.distinguished_by must be a tuple .* got") as error:
            registry.register(wrong)
        assert repr(names) in str(error.value)
        assert registry.find_event("wrong") is None

    def test_each_code_has_what_tells_its_outcomes_apart(self, registry: EventRegistry) -> None:
        names = {"key": "visit", "codes": {"A": code(), "B": code()}, "distinguished_by": ("room", "floor")}
        registry.register(type("Visit", (BaseEvent,), names))
        assert {found.distinguished_by for found in registry.filter(key="visit")} == {("room", "floor")}

    def test_a_class_with_a_wrong_code_is_not_registered(self, registry: EventRegistry) -> None:
        wrong = type("Wrong", (BaseEvent,), {"key": "wrong", "codes": {"A": code(), "B": code(level=5)}})
        with pytest.raises(RegistrationError, match=r"Wrong\.codes\['B'\]"):
            registry.register(wrong)
        assert "wrong" not in registry.all()

    def test_a_class_without_codes_has_nothing_to_resolve_to(self, registry: EventRegistry) -> None:
        with pytest.raises(CodeNotResolved, match=r"'empty' has 0"):
            registry.registered("empty").event.get_log_code(None)
        with pytest.raises(UnknownCode, match="no codes at all"):
            registry.get_code("empty", "A")

    def test_the_only_code_is_picked_and_of_several_none(self, registry: EventRegistry) -> None:
        assert registry.registered("repair").event.get_log_code(None) == "REPAIRED"
        with pytest.raises(CodeNotResolved, match="OPENED"):
            registry.registered("ticket").event.get_log_code(None)


class TestLookUp:
    def test_an_unknown_key_names_the_nearest_and_the_remedy(self, registry: EventRegistry) -> None:
        with pytest.raises(UnknownEvent, match=r"'tickets'.*Did you mean 'ticket'\?.*caselog dead requeue"):
            registry.get_event("tickets")

    def test_an_unknown_code_names_the_nearest_and_the_remedy(self, registry: EventRegistry) -> None:
        with pytest.raises(UnknownCode, match=r"'closed'.*Did you mean 'CLOSED'\?.*caselog dead requeue"):
            registry.get_code("ticket", "closed")

    def test_codes_come_by_order_and_else_as_declared(self, registry: EventRegistry) -> None:
        assert list(Ticket.get_ordered_codes()) == ["OPENED", "CLOSED", "LATE", "LATER"]
        assert [found.code for found in registry.codes()] == ["REPAIRED", "OPENED", "CLOSED", "LATE", "LATER"]

    def test_all_are_sorted_by_key(self, registry: EventRegistry) -> None:
        assert list(registry.all().items()) == [("empty", Empty), ("repair", Repair), ("ticket", Ticket)]

    def test_codes_are_filtered_by_their_fields(self, registry: EventRegistry) -> None:
        assert [found.code for found in registry.filter(stops_timer=True)] == ["CLOSED"]
        assert [found.code for found in registry.filter(creates_case=True)] == ["OPENED"]
        assert [found.code for found in registry.filter(key="ticket", type="outcome", order=10_000)] == [
            "LATE",
            "LATER",
        ]
        assert registry.filter(key="ticket", code="REPAIRED") == []
        assert registry.filter() == registry.codes()

    def test_a_field_that_codes_do_not_have_cannot_be_filtered_by(self, registry: EventRegistry) -> None:
        with pytest.raises(TypeError, match="'stop_timer'"):
            registry.filter(stop_timer=True)

    def test_a_role_may_choose_what_is_for_it_and_what_is_for_anyone(self, registry: EventRegistry) -> None:
        def selectable(role: str) -> dict[str, list[str]]:
            return {key: list(codes) for key, codes in registry.get_selectable_events(role).items()}

        anyone = ["OPENED", "CLOSED", "LATE"]
        assert selectable("web") == {"ticket": anyone}
        assert selectable("specialist") == {"repair": ["REPAIRED"], "ticket": anyone}
        assert selectable("operator") == {"repair": ["REPAIRED"], "ticket": [*anyone, "LATER"]}
        assert selectable("operator_manager") == selectable("operator")


EVENTS_MODULE = """
from caselog.events import BaseEvent, LogLevel, LogType, event_registry

@event_registry.register
class Found(BaseEvent):
    key = {key!r}
    codes = {{
        "DONE": {{"type": LogType.OUTCOME, "level": LogLevel.HIGH, "selectable_by": [],
                  "description": "Done", "stops_timer": False}},
    }}
"""


class Packages:
    """Packages written for one test; what they registered and imported is gone after it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, module: str, text: str = "") -> None:
        path = self.root.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in path.relative_to(self.root).parents:
            if folder != Path():
                (self.root / folder / "__init__.py").touch()
        path.write_text(text)
        # A finder remembers what a folder held when it last looked.
        sys.path_importer_cache.clear()

    def entry_point(self, name: str, value: str) -> None:
        folder = self.root / "other-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[caselog.apps]\n{name} = {value}\n")
        sys.path_importer_cache.clear()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Packages]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a module mended within a second is read again
    before, modules = event_registry.snapshot(), set(sys.modules)
    yield Packages(tmp_path)
    event_registry.restore(before)
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("north", "south"):
            del sys.modules[name]


class TestAutodiscover:
    def test_the_events_module_of_each_app_is_imported(self, packages: Packages) -> None:
        packages.write("north.events", EVENTS_MODULE.format(key="north"))
        packages.write("south.desk.events", EVENTS_MODULE.format(key="south"))
        autodiscover(["north", "south.desk"])
        assert event_registry.get_code("north", "DONE").description == "Done"
        assert event_registry.get_code("south", "DONE").key == "south"

    def test_again_changes_nothing(self, packages: Packages) -> None:
        packages.write("north.events", EVENTS_MODULE.format(key="north"))
        autodiscover(["north"])
        found = event_registry.all()
        autodiscover(["north"])
        assert event_registry.all() == found

    def test_an_app_without_the_module_is_skipped(self, packages: Packages) -> None:
        packages.write("north.something_else")
        before = event_registry.all()
        autodiscover(["north"])
        assert event_registry.all() == before

    @pytest.mark.parametrize("app", ["north", "north.desk", "caselog.events.apps.legal_aid"])
    def test_an_app_that_is_not_there_is_an_error_that_names_it(self, packages: Packages, app: str) -> None:
        packages.write("south.events")
        with pytest.raises(RegistrationError, match=rf"CASELOG_APPS names '{app}'.*PYTHONPATH"):
            autodiscover(["south", app])

    def test_a_bundled_app_under_its_old_name_is_an_error_that_names_the_new_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also in the project's folder, where a package of the old name is found."""
        monkeypatch.syspath_prepend(ROOT)
        before = set(sys.modules)
        with pytest.raises(RegistrationError, match=r"'events\.apps\.timer', which is called 'caselog\.events\.apps"):
            autodiscover(["events.apps.timer"])
        assert not any(name.startswith("events") for name in set(sys.modules) - before)

    FAULTS = {
        "an exception": ("1 / 0", "ZeroDivisionError"),
        "a syntax error": ("def", "SyntaxError"),
        "a missing dependency": ("import no_such_package", "no_such_package"),
        "a name that is not there": ("from caselog.events import NoSuchName", "NoSuchName"),
        "a wrong code": (EVENTS_MODULE.format(key="again").replace("LogLevel.HIGH", "5"), r"Found\.codes\['DONE'\]"),
        "a key that is taken": (EVENTS_MODULE.format(key="north"), "'north'"),
    }

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_failing_module_is_an_error_that_names_it_and_leaves_the_registry_as_it_was(
        self, packages: Packages, fault: str
    ) -> None:
        text, said = self.FAULTS[fault]
        packages.write("north.events", EVENTS_MODULE.format(key="north"))
        packages.write("south.events", EVENTS_MODULE.format(key="south") + text + "\n")
        before = event_registry.all()
        with pytest.raises(RegistrationError, match=rf"(?s)south\.events.*{said}"):
            autodiscover(["north", "south"])
        assert event_registry.all() == before

    def test_after_the_mend_the_same_call_finds_all(self, packages: Packages) -> None:
        packages.write("north.events", EVENTS_MODULE.format(key="north"))
        packages.write("south.codes", EVENTS_MODULE.format(key="more"))
        packages.write("south.events", "import south.codes\n1 / 0")
        with pytest.raises(RegistrationError):
            autodiscover(["north", "south"])
        packages.write("south.events", "import south.codes\n")
        autodiscover(["north", "south"])
        assert {"north", "more"} <= event_registry.all().keys()

    @pytest.mark.parametrize("module", ["south.__init__", "south.desk.__init__"])
    def test_a_failing_package_is_an_error_that_names_it(self, packages: Packages, module: str) -> None:
        packages.write("south.desk.events")
        packages.write(module, "1 / 0")
        with pytest.raises(RegistrationError, match=r"south.* failed to import: ZeroDivisionError"):
            autodiscover(["south.desk"])

    def test_a_failure_forgets_no_other_module(self, packages: Packages) -> None:
        """A library's own module called `events` that an app imports on the way stays what it is."""
        packages.write("north.library.events", "state = []")
        packages.write("south.events", "import north.library.events\n1 / 0")
        with pytest.raises(RegistrationError):
            autodiscover(["south"])
        assert "north.library.events" in sys.modules
        assert "south.events" not in sys.modules

    @pytest.mark.parametrize("value", ["north", "north.events", "north.events:Found"])
    def test_an_entry_point_names_an_app_its_module_or_a_class(self, packages: Packages, value: str) -> None:
        packages.write("north.events", EVENTS_MODULE.format(key="north"))
        packages.entry_point("anything", value)
        autodiscover([])
        assert event_registry.get_event("north").__module__ == "north.events"

    @pytest.mark.parametrize("value", ["south", "south.events", "south.events:Found", "nowhere"])
    def test_a_failing_entry_point_is_an_error_that_names_it(self, packages: Packages, value: str) -> None:
        packages.write("north.events", EVENTS_MODULE.format(key="north"))
        packages.write("south.events", "1 / 0")
        packages.entry_point("anything", value)
        before = event_registry.all()
        with pytest.raises(RegistrationError, match=r"south\.events|nowhere"):
            autodiscover(["north"])
        assert event_registry.all() == before
