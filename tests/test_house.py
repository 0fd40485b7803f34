"""How the house is built: its names are its own, its rooms import one way, and each thing lives in one place."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes.patience import DEADLINE_S

ROOT = Path(__file__).parents[1]
ROOMS = ("events", "schema", "workers")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py") if "versions" not in path.parts)
SQL = re.compile(
    r"\b(select\s.+\sfrom|insert\s+into|delete\s+from|update\s.+\sset|(create|alter|drop)\s+(table|database|role|user|index)"
    r"|truncate)\b",
    re.IGNORECASE | re.DOTALL,
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def in_a_fresh_interpreter(program: str) -> str:
    """What the program prints, run from the project's root by an interpreter that has imported nothing of ours yet."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- names ---


def test_the_modules_that_are_imported_are_those_of_the_folders() -> None:
    for room in ROOMS:
        module = importlib.import_module(f"caselog.{room}")
        assert module.__file__ is not None
        assert Path(module.__file__).resolve() == ROOT / room / "__init__.py"


def test_no_module_is_loaded_under_two_names() -> None:
    """Run from the project's folder, where `import events` would find a folder of that name."""
    program = """
import importlib, json, pkgutil, sys, caselog
from pathlib import Path
for module in pkgutil.walk_packages(caselog.__path__, "caselog."):
    if ".versions" not in module.name and module.name != "caselog.schema.migrations.env":
        importlib.import_module(module.name)
names = {}
for name, module in sys.modules.items():
    if (file := getattr(module, "__file__", None)) is not None:
        names.setdefault(str(Path(file).resolve()), []).append(name)
print(json.dumps({file: found for file, found in names.items() if len(found) > 1 and ROOT in file}))
""".replace("ROOT", repr(str(ROOT)))
    twice = json.loads(in_a_fresh_interpreter(program))
    assert {file: names for file, names in twice.items() if "/.venv/" not in file} == {}


# --- what every module has ---


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_begins_with_a_sentence(path: Path) -> None:
    """Its docstring's first line says, in one sentence, what it is for."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{name_of(path)} has no docstring"
    sentence = docstring.split("\n\n")[0]
    assert sentence[0].isupper() or not sentence[0].isalpha(), sentence
    assert sentence.endswith((".", ":")), sentence


# --- each thing in one place ---


def test_the_imports_run_one_way() -> None:
    """The direction is events <- schema <- workers; and the rest of the contracts of pyproject.toml."""
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_environment_is_read_in_one_file() -> None:
    """`os.environ` and `os.getenv` stand in workers/settings.py alone."""
    readers = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            attribute = node.attr if isinstance(node, ast.Attribute) else ""
            imported = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if {attribute, *imported} & {"environ", "environb", "getenv", "putenv"}:
                readers.add(name_of(path))
    assert readers <= {"workers/settings.py"}


def said_by(node: ast.AST) -> str:
    """A string's text, also of one that is put together: what is put in is a word."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(said_by(part) or "it" for part in node.values)
    return ""


@pytest.mark.parametrize(
    ("program", "is_sql"),
    [
        ("x = 'select a\\n  from b'", True),
        ("x = f'alter role {name} with password'", True),
        ("x = f'select {columns} from {table}'", True),
        ("x = 'Choose one: select it from the list'", True),  # a sentence that reads so is said otherwise
        ("x = 'updates the table'", False),
    ],
)
def test_the_law_sees_statements_however_they_are_written(program: str, *, is_sql: bool) -> None:
    assert any(SQL.search(said_by(node)) for node in ast.walk(ast.parse(program))) is is_sql


@pytest.mark.parametrize("path", [p for p in MODULES if "schema" not in p.parts], ids=name_of)
def test_sql_lives_in_schema_alone(path: Path) -> None:
    """Docstrings aside, no string of another room is a statement, and none of them imports SQLAlchemy's `text`."""
    tree = ast.parse(path.read_text())
    prose = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for statement in node.body
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        if id(node) not in prose and (said := said_by(node)):
            assert not SQL.search(said), f"line {getattr(node, 'lineno', 0)}: {said!r}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy"):
            names = {alias.name for alias in node.names}
            assert not names & {"text", "select", "insert", "update", "delete"}, f"line {node.lineno}"


# --- what is imported when ---

_LOADED = """
import json, sys
print(json.dumps(sorted({".".join(name.split(".")[:parts]) for name in sys.modules for parts in (1, 2)})))
"""


def test_a_producer_imports_the_publisher_without_database_jobs_or_web() -> None:
    loaded = set(json.loads(in_a_fresh_interpreter(f"from caselog.events import Publisher\n{_LOADED}")))
    assert "caselog.events" in loaded
    assert not loaded & {"sqlalchemy", "psycopg", "alembic", "dramatiq", "litestar", "uvicorn", "pydantic"}
    assert not loaded & {"caselog.schema", "caselog.workers"}


def test_an_organisations_events_need_no_broker_either() -> None:
    loaded = set(json.loads(in_a_fresh_interpreter(f"from caselog.events import BaseEvent, event_registry\n{_LOADED}")))
    assert not loaded & {"kombu", "amqp", "redis", "sqlalchemy", "dramatiq"}


def test_asking_for_help_loads_none_of_the_heavy_parts() -> None:
    """Nor does it take long; but time is not asserted, what is loaded is."""
    program = f"""
import sys
sys.argv = ["caselog", "--help"]
from caselog.workers.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print()
{_LOADED}
"""
    *help_text, loaded = in_a_fresh_interpreter(program).strip().splitlines()
    assert any("publish" in line for line in help_text)
    heavy = {"sqlalchemy", "psycopg", "dramatiq", "kombu", "litestar", "uvicorn", "alembic", "redis", "pydantic"}
    assert not set(json.loads(loaded)) & heavy


# --- the folders ---


def folders() -> list[Path]:
    return sorted({path.parent for path in MODULES})


def sentence_of(folder: Path) -> str:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert docstring, folder
    return docstring.split("\n\n")[0].replace("\n", " ")


def test_the_drawing_in_the_docs_has_each_folder_with_its_sentence() -> None:
    (drawing,) = re.findall(
        r"^```\n(events/.+?)^```$", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE | re.DOTALL
    )
    drawn: dict[Path, str] = {}
    above: list[str] = []
    for line in drawing.splitlines():
        if found := re.fullmatch(r"( *)(\w+)/ +(.+)", line):
            indent, name, sentence = found.groups()
            above = [*above[: len(indent) // 2], name]
            drawn[ROOT.joinpath(*above)] = sentence
    # An app's folder is its name: docs/codes.md says what is in it.
    there = [folder for folder in folders() if folder.parent != ROOT / "events" / "apps"]
    assert drawn == {folder: sentence_of(folder) for folder in there}


@pytest.mark.parametrize("folder", folders(), ids=name_of)
def test_a_folder_can_be_seen_at_a_glance(folder: Path) -> None:
    """At most twelve modules; of reports there is a file each."""
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= 12 or folder == ROOT / "schema" / "reports" / "declarations"
