"""Commands that read: exports and the codes there are."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from caselog.events.phrases import count_of
from caselog.workers.rows.formats import Format, RowFormat, write
from caselog.workers.rows.output import output_to, print_table, write_json

if TYPE_CHECKING:
    from caselog.events.model.codes import Code

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
# What looks like a URL, once it has been made a path: it would be a file of that name, and repeated where it fails.
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+._-]+::?(?:/|[A-Za-z])")


def _own_file(path: Path | None) -> Path | None:
    if path is not None and _URL.match(str(path)):
        raise typer.BadParameter(
            "it is a file on this machine, and no URL (of a file whose name has a colon: ./name). A report goes to an "
            "object store with --background --to-url",
            param_hint="--output",
        )
    return path


Output = Annotated[
    Path | None,
    typer.Option(help="Write to this file instead of stdout.", dir_okay=False, callback=_own_file),
]
Bom = Annotated[bool, typer.Option("--bom", help="CSV with a byte order mark, for spreadsheets.")]

_TOLD_ROWS = 100


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: caselog export logs --format csv --output logs.csv")(export)
    app.command(epilog="Example: caselog codes --key suspend_case --role operator")(codes)


def export(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="cases, logs, timers or dead.")],
    *,
    form: Annotated[RowFormat, typer.Option("--format", help="How to write it.")] = RowFormat.JSONL,
    output: Output = None,
    bom: Bom = False,
) -> None:
    """Export all rows, streamed. Timestamps are RFC 3339 in UTC. What CSV and Parquet do to values: docs/reports.md."""
    from caselog.schema.operations import audit
    from caselog.schema.operations.table_exports import get_export, stream_export
    from caselog.workers.commands.database import reading, writing
    from caselog.workers.terminal.progress import counting

    chosen = get_export(what)
    check_form(form, output, bom=bom)
    if what == "dead":  # its raw bytes are what `caselog dead show` masks
        with writing() as (settings, engine), engine.begin() as db:
            audit.record(db, who=settings.who, action="dead.export", why=None, detail={})
    with reading() as db, output_to(output) as out, counting(f"exporting {what}", None) as advance:
        rows = stream_export(db, chosen)
        write(out, chosen.fields, counted(rows, advance), form, bom=bom)


def codes(
    *,
    key: Annotated[str | None, typer.Option(help="Only the codes of this event key.")] = None,
    role: Annotated[
        str | None, typer.Option(help="Only the codes that this role may choose, by a role that it includes as well.")
    ] = None,
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/codes.md.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Compare them with the codes that the log has used; exit 1 where one was removed, or would fold "
            "otherwise than it did. For a deploy pipeline, before the deploy.",
        ),
    ] = False,
) -> None:
    """Show the registered codes, by key and in their order."""
    from caselog.events.model.codes import Role
    from caselog.events.model.registry import autodiscover, event_registry
    from caselog.workers.settings import load_settings

    autodiscover(load_settings().apps)
    if key is not None and not check:  # a key that was removed is what a check may be after
        event_registry.get_event(key)
    if role is not None and role not in list(Role):
        raise typer.BadParameter(f"there is no role {role!r}: choose {', '.join(Role)}", param_hint="--role")
    chosen = [
        code
        for code in event_registry.codes()
        if (key is None or code.key == key) and (role is None or code.selectable_for(role))
    ]
    if check:
        _check_codes(key, json=json)
        return
    if json:
        write_json([code.facts() for code in chosen])
    elif markdown:
        sys.stdout.write(_markdown(chosen))
    else:
        print_table(_FACTS, ([_fact(code, name) for name in _FACTS] for code in chosen))


def _check_codes(key: str | None, *, json: bool) -> None:
    """Print what was removed or contradicted, one line a code; exit 1 where there is any."""
    from caselog.events.folding.retired_codes import check
    from caselog.events.model.registry import event_registry
    from caselog.schema.recording.definitions import used_codes
    from caselog.workers.commands.database import reading

    with reading() as db:
        used = [use for use in used_codes(db) if key is None or use.key == key]
    findings = check(event_registry, used)
    if json:
        write_json(findings)
    else:
        sys.stdout.write("".join(f"{finding.message}\n" for finding in findings))
    if findings:
        raise typer.Exit(1)
    sys.stderr.write(f"The log has used {count_of(len(used), 'code')}: each is registered, and folds as it did.\n")


_FACTS = (
    "key", "code", "type", "level", "selectable_by", "stops_timer", "order", "set_requires_action_by", "description",
)  # fmt: skip


def _fact(code: Code, name: str) -> Any:
    value = code.facts()[name]
    if name == "selectable_by":
        return ", ".join(value) or "anyone"
    if name == "set_requires_action_by":
        return "" if value is None else str(value.get("rule") or value.get("set") or "nobody")
    if name == "stops_timer":
        return "yes" if value else ""
    return value


def _markdown(chosen: list[Code]) -> str:
    lines = [
        "# Codes",
        "",
        "Every code of the bundled apps, generated by `caselog codes --markdown`. Levels: HIGH 29, MODERATE 21,",
        "MINOR 11. `set_requires_action_by` is empty where the code leaves the case's next move alone. What an",
        "`operator` may choose, an `operator_manager` may choose too.",
        "What a code does to its case: [rules.md](rules.md).",
        "What differs from the Civil Legal Advice back end: [coming-from-cla.md](coming-from-cla.md).",
    ]
    for key in dict.fromkeys(code.key for code in chosen):
        names = [name for name in _FACTS if name != "key"]
        lines += ["", f"## `{key}`", "", f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
        for code in chosen:
            if code.key == key:
                cells = ["" if (value := _fact(code, name)) is None else str(value) for name in names]
                lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def check_form(form: Format | RowFormat, output: Path | None, *, bom: bool) -> None:
    """Raises `typer.BadParameter` where this is no way to write to there."""
    if bom and form != Format.CSV:
        raise typer.BadParameter(f"only CSV may begin with a byte order mark, and this is {form}", param_hint="--bom")
    if form == Format.PARQUET and output is None and sys.stdout.isatty():
        raise typer.BadParameter(
            "parquet is no text for a terminal: give a file (--output FILE) or a pipe", param_hint="--format"
        )


def counted(rows: Iterator[tuple[Any, ...]], advance: Callable[[int], None]) -> Iterator[tuple[Any, ...]]:
    """The same rows; progress is told of some at a time, since telling takes longer than reading one."""
    for at, row in enumerate(rows, start=1):
        yield row
        if at % _TOLD_ROWS == 0:
            advance(_TOLD_ROWS)
