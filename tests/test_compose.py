"""docker-compose.yml and the Dockerfile, read closely: they fit the specification, this repository and each other."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import typer
import yaml
from packaging.specifiers import SpecifierSet

from caselog.workers.servers.postgres import SETTINGS
from caselog.workers.settings import Settings

ROOT = Path(__file__).parents[1]
_PAGES = {".html", ".css", ".svg"}
FILE = ROOT / "docker-compose.yml"
SCHEMA = Path(__file__).parent / "data" / "compose-spec" / "compose-spec.json"
OUR_SERVICES = ("migrate", "recorder", "tasks", "status")
WELL_KNOWN_PORTS = {"postgres": 5432, "redis": 6379, "rabbitmq": 5672}
AMQP_URL = "amqp://caselog:caselog@rabbitmq:5672/"
# Typer may bring a click of its own; this is how it gives access to the error of that one.
USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+):(?P<how>[-?])(?P<default>(?:[^${}]|\$\{[^{}]*\})*)\}")
# What has no default, because it is a secret of whoever runs it.
GIVEN = {"CASELOG_API_TOKENS": f"anna:operator+personal:{'anna-' * 6}"}


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """`${NAME:-default}` and `${NAME:?what to do}` as Compose fills them in; the file uses no other form."""

    def filled(match: re.Match[str]) -> str:
        if given := environment.get(match["name"]):
            return given
        if match["how"] == "?":
            raise LookupError(f"required variable {match['name']} is missing a value: {match['default']}")
        return interpolated(match["default"], environment)

    found = _VARIABLE.sub(filled, text)
    assert "$" not in found, f"neither ${{NAME:-default}} nor ${{NAME:?what to do}}: {found}"
    return found


def composed(**environment: str) -> dict[str, Any]:
    """The compose file as it is read with these variables set, and those that must be."""
    environment = {**GIVEN, **environment}

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return interpolated(value, environment)
        if isinstance(value, dict):
            return {key: fill(item) for key, item in value.items()}
        return [fill(item) for item in value] if isinstance(value, list) else value

    found: dict[str, Any] = fill(yaml.safe_load(FILE.read_text()))
    return found


COMPOSED = composed()
SERVICES: dict[str, dict[str, Any]] = COMPOSED["services"]


def dockerfile() -> Iterator[tuple[str, str]]:
    """Each instruction of the Dockerfile with its arguments on one line."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            instruction, _, rest = line.strip().partition(" ")
            yield instruction, rest.strip()


def arguments_of(instruction: str) -> list[str]:
    return [rest for name, rest in dockerfile() if name == instruction]


def resolve_command(arguments: list[str]) -> None:
    """Raises `USAGE_ERROR` unless `caselog` has this command with these arguments and options."""
    from caselog.workers.cli import app  # noqa: PLC0415 - what else is tested here needs no command line

    command: Any = typer.main.get_command(app)
    context = command.context_class(command, info_name="caselog")
    while hasattr(command, "commands"):  # a group
        if command.invoke_without_command and not (arguments and arguments[0] in command.commands):
            break  # it is a command itself
        name, command, arguments = command.resolve_command(context, arguments)
        context = command.context_class(command, info_name=name, parent=context)
    command.parse_args(context, list(arguments))


def check_program(words: list[str]) -> None:
    """A command as run in our image: of caselog, or of Python with a module or a text that compiles."""
    match words:
        case ["caselog", *rest]:
            resolve_command(rest)
        case ["python", "-m", module, *_]:
            assert find_spec(module) is not None
        case ["python", "-c", source]:
            compile(source, "healthcheck", "exec")
        case _:
            pytest.fail(f"no program of our image: {words}")


def settings_of(service: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in service["environment"].items() if value is not None}


def test_the_file_fits_the_compose_specification() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for document in (COMPOSED, yaml.safe_load(FILE.read_text())):
        jsonschema.Draft202012Validator(schema).validate(document)
    with pytest.raises(jsonschema.ValidationError):  # the validator does say no
        jsonschema.Draft202012Validator(schema).validate({"services": {"x": {"imaeg": "y"}}})


def test_every_role_runs_after_the_migration_and_with_its_servers() -> None:
    assert set(SERVICES) == {*OUR_SERVICES, "postgres", "redis", "rabbitmq"}
    assert SERVICES["migrate"]["restart"] == "no"
    for name in ("recorder", "tasks", "status"):
        needed = SERVICES[name]["depends_on"]
        assert needed["migrate"]["condition"] == "service_completed_successfully"
        assert needed["redis"]["condition"] == "service_healthy"


def test_what_must_be_healthy_first_has_a_health_check_and_every_dependency_exists() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES, f"{name} depends on {needed}"
            if how["condition"] == "service_healthy":
                assert SERVICES[needed]["healthcheck"]["test"]
            if SERVICES[needed].get("profiles"):
                assert how["required"] is False, f"{name} would not start without the profile of {needed}"


def test_every_service_that_stays_up_has_a_health_check_a_restart_policy_and_rotated_logs() -> None:
    for name, service in SERVICES.items():
        assert service["logging"]["driver"] == "local"
        if name != "migrate":
            assert service["restart"] == "unless-stopped"
            assert {"test", "interval", "timeout", "retries"} <= service["healthcheck"].keys()


@pytest.mark.parametrize("name", OUR_SERVICES)
def test_every_command_of_ours_is_one_that_the_command_line_has(name: str) -> None:
    resolve_command(SERVICES[name]["command"])
    with pytest.raises(USAGE_ERROR):  # the test does say no
        resolve_command([*SERVICES[name]["command"], "--no-such-option"])


@pytest.mark.parametrize("name", [name for name in OUR_SERVICES if "healthcheck" in SERVICES[name]])
def test_every_health_check_of_ours_is_a_program_of_the_image(name: str) -> None:
    kind, *words = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD"
    check_program(words)


def test_the_health_checks_of_the_workers_ask_for_their_own_role() -> None:
    for role in ("recorder", "tasks"):
        assert SERVICES[role]["command"][1] == SERVICES[role]["healthcheck"]["test"][-1] == role


def test_every_variable_is_a_setting_and_every_value_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"CASELOG_{field.upper()}" for field in Settings.model_fields}
    text = FILE.read_text() + (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"CASELOG_[A-Z_]+", text)) <= known
    for broker_url in ("", AMQP_URL):
        for name in OUR_SERVICES:
            given = settings_of(composed(CASELOG_BROKER_URL=broker_url)["services"][name])
            for variable, value in given.items():
                monkeypatch.setenv(variable, value)
            settings = Settings()
            # Nothing embedded is looked for in a container.
            assert settings.database_url
            assert settings.redis_url
            assert settings.broker_url
            assert settings.broker_url.get_secret_value() == (broker_url or "redis://redis:6379/0")


def test_every_address_in_a_default_url_is_a_service_at_its_port() -> None:
    given = settings_of(SERVICES["recorder"])
    for url in (given["CASELOG_DATABASE_URL"], given["CASELOG_BROKER_URL"], given["CASELOG_REDIS_URL"], AMQP_URL):
        parts = urlsplit(url)
        assert parts.hostname in SERVICES
        assert parts.port == WELL_KNOWN_PORTS[parts.hostname]


def test_the_password_of_the_database_is_given_once() -> None:
    services = composed(POSTGRES_PASSWORD="another")["services"]
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == "another"
    url = urlsplit(services["recorder"]["environment"]["CASELOG_DATABASE_URL"])
    assert (url.username, url.password, url.path) == (
        services["postgres"]["environment"]["POSTGRES_USER"],
        "another",
        f"/{services['postgres']['environment']['POSTGRES_DB']}",
    )


def test_the_status_page_is_published_where_the_worker_listens_and_to_this_machine_only() -> None:
    default = Settings.model_fields["http_port"].default
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"status": [f"127.0.0.1:{default}:{default}"]}
    assert f":{default}/livez" in " ".join(SERVICES["status"]["healthcheck"]["test"])
    assert arguments_of("EXPOSE") == [str(default)]
    assert composed(CASELOG_HTTP_PORT="9999")["services"]["status"]["ports"] == [f"127.0.0.1:9999:{default}"]
    assert re.search(r"CASELOG_HTTP_HOST=0\.0\.0\.0\b", " ".join(arguments_of("ENV")))


def test_nobody_reads_who_was_not_named_and_without_that_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no token that is the same everywhere; the health checks need none."""
    with pytest.raises(LookupError, match="CASELOG_API_TOKENS is missing a value: name who may read"):
        composed(CASELOG_API_TOKENS="")
    for variable, value in settings_of(SERVICES["status"]).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("CASELOG_HTTP_HOST", "0.0.0.0")
    assert not Settings().is_reading_open
    assert [(token.name, str(token.grant)) for token in Settings().tokens] == [("anna", "operator+personal")]
    asked = urlsplit(" ".join(SERVICES["status"]["healthcheck"]["test"]).partition("urlopen('")[2].partition("'")[0])
    assert asked.path == "/livez"


def test_redis_forgets_nothing() -> None:
    command = shlex.join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_postgres_has_the_memory_and_the_wal_of_the_embedded_one() -> None:
    """docs/deploy.md says so; what a long log gains by them is in docs/decisions/0098-what-a-long-log-costs.md."""
    program, *words = SERVICES["postgres"]["command"]
    assert program == "postgres"
    assert set(words[::2]) == {"-c"}
    given = dict(word.split("=") for word in words[1::2])
    assert given == {name: SETTINGS[name] for name in ("shared_buffers", "max_wal_size")}


def test_what_must_stay_lies_in_volumes_that_are_declared() -> None:
    used = [volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert sorted(used) == sorted(COMPOSED["volumes"])
    for name in ("postgres", "redis", "rabbitmq"):
        assert SERVICES[name]["volumes"]


def test_every_image_from_elsewhere_is_pinned_to_a_patch_release() -> None:
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    images += [rest.partition("=")[2] for rest in arguments_of("ARG") if rest.startswith("PYTHON_IMAGE=")]
    assert len(images) == 4
    for image in images:
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?(-[a-z]+)*", image), image
        if not image.startswith("postgres"):  # its releases have two numbers
            assert re.search(r":\d+\.\d+\.\d+", image), image


def test_the_build_reads_files_that_exist_and_that_are_sent_to_it() -> None:
    for name in OUR_SERVICES:
        build = SERVICES[name]["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).is_file()
        declared = {rest.partition("=")[0] for rest in arguments_of("ARG")}
        assert set(build["args"]) <= declared
    let_through = [
        line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    copied = [source for rest in arguments_of("COPY") if not rest.startswith("--from=") for source in rest.split()[:-1]]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source.rstrip("/"), pattern) for pattern in let_through), source
    assert {"events/", "schema/", "workers/", "requirements.lock"} <= set(copied)


def test_the_image_has_a_python_that_the_project_supports_checks_hashes_and_is_not_root() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (image,) = [rest.partition("=")[2] for rest in arguments_of("ARG") if rest.startswith("PYTHON_IMAGE=")]
    assert image.partition(":")[2].partition("-")[0] in SpecifierSet(project["requires-python"])
    assert any("--require-hashes" in rest and "requirements.lock" in rest for rest in arguments_of("RUN"))
    assert all("--no-index" in rest or "--require-hashes" in rest for rest in arguments_of("RUN") if "pip" in rest)
    (user,) = arguments_of("USER")
    assert int(user.partition(":")[0]) > 0
    assert arguments_of("ENTRYPOINT") == ['["caselog"]']
    assert "caselog" in project["scripts"]


def test_no_secret_is_in_the_image() -> None:
    for rest in (*arguments_of("ENV"), *arguments_of("ARG")):
        assert not re.search(r"PASSWORD|TOKEN|SECRET|_URL", rest)


def test_the_wheel_that_the_image_installs_holds_the_three_rooms_and_the_migrations(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for room in ("events", "schema", "workers"):
        ours = {f"caselog/{path.relative_to(ROOT)}" for path in (ROOT / room).rglob("*.py")}
        assert ours <= names
    assert "caselog/schema/migrations/versions/0001_first.py" in names
    pages = {f"caselog/{path.relative_to(ROOT)}" for path in (ROOT / "workers").rglob("*.*") if path.suffix in _PAGES}
    assert pages
    assert pages <= names
    assert "caselog/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {"caselog", f"caselog-{version('caselog')}.dist-info"}


def test_exports_lie_in_a_volume_that_the_tasks_workers_share_and_may_write_to() -> None:
    """A new volume takes owner and mode of the directory of the image that it covers."""
    directory = SERVICES["tasks"]["environment"]["CASELOG_EXPORT_URL"]
    assert SERVICES["tasks"]["volumes"] == [f"exports:{directory}"]
    assert any(directory in rest and "--owner caselog" in rest for rest in arguments_of("RUN"))
    assert {
        service["environment"]["CASELOG_EXPORT_URL"] for name, service in SERVICES.items() if name in OUR_SERVICES
    } == {directory}
    for name in OUR_SERVICES:
        assert ("AWS_SECRET_ACCESS_KEY" in SERVICES[name]["environment"]) is (name == "tasks")
