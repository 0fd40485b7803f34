"""`caselog report`: which reports there are, what they mean, and what they say."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer
from typer.core import TyperCommand

from caselog.workers.commands.background_exports import ask_for, check_request
from caselog.workers.commands.export import Bom, Output, check_form, counted
from caselog.workers.rows.formats import Format, write
from caselog.workers.rows.output import has_colors, output_to, print_table, write_json

if TYPE_CHECKING:
    from caselog.schema.reports.reading import By, Reading
    from caselog.schema.reports.terms.report import Report
    from caselog.workers.settings import Settings

# More are nothing to read, and a table is held whole to know how wide its columns are.
TABLE_ROWS: Final = 10_000
_PLOT_LINES: Final = 24


class ReportCommand(TyperCommand):
    """Its help lists the reports that there are."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from rich.markup import escape

        from caselog.schema.reports.catalogue import REPORTS

        lines = (f"[bold]{name}[/bold]: {escape(report.description)}" for name, report in REPORTS.items())
        self.help = "\n".join([self.callback.__doc__ or "", "", *lines])
        super().format_help(ctx, formatter)


def add_to(app: typer.Typer) -> None:
    app.command(
        cls=ReportCommand, epilog="Example: caselog report case_volume --from 2026-01-01 --to 2026-11-30 --by month"
    )(report)


def report(
    name: Annotated[str | None, typer.Argument(help="Which report; --list shows them.")] = None,
    *,
    first: Annotated[str | None, typer.Option("--from", metavar="DATE", help="First local day, included.")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last local day, included.")] = None,
    by: Annotated[str | None, typer.Option(metavar="PERIOD", help="Sum up by day, week or month.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Only rows that match; no value: only empty ones.")
    ] = None,
    now: Annotated[
        str | None, typer.Option(metavar="TIME", help="The moment of asking, for what depends on it.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.TABLE,
    output: Output = None,
    bom: Bom = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw its first number, or how many rows, over time.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; of a report's rows, JSON lines.")] = False,
    background: Annotated[
        bool, typer.Option("--background", help="Let a tasks worker write it to a file; see: caselog exports --help")
    ] = False,
    to_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="With --background: the directory or URL to write to, instead of CASELOG_EXPORT_URL."
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the reports.")] = False,
    describe: Annotated[bool, typer.Option("--describe", help="Say what its columns mean and what it takes.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="With --describe: print the page docs/report-columns.md.")
    ] = False,
) -> None:
    """Show a report for a range of days, both included."""
    from caselog.schema.reports.catalogue import REPORTS, get_report
    from caselog.workers.settings import load_settings

    if markdown:
        sys.stdout.write(page(list(REPORTS.values()) if name is None else [get_report(name)]))
    elif describe:
        if name is None:
            raise typer.BadParameter(f"which report? There are {', '.join(REPORTS)}", param_hint="NAME")
        _describe(get_report(name), json=json)
    elif list_ or name is None:
        _list(list(REPORTS.values()), json=json)
    elif background or to_url is not None:
        check_request(form, output, is_background=background, json=json, shown=plot or bom)
        asked = _asked(
            get_report(name), load_settings(), first=first, last=last, by=by, where=where, now=now, plot=False
        )
        ask_for(asked, form=Format.JSONL if json else form, to_url=to_url)
    else:
        form = _form(form, output, json=json, plot=plot, bom=bom)
        settings = load_settings()
        asked = _asked(get_report(name), settings, first=first, last=last, by=by, where=where, now=now, plot=plot)
        if plot:
            _plot(asked, by)
        elif form is Format.TABLE:
            _show(asked, output)
        else:
            _write(asked, form, output, bom=bom)


def _list(reports: list[Report], *, json: bool) -> None:
    if json:
        write_json([{"report": report.name, "description": report.description} for report in reports])
    else:
        print_table(("report", "description"), ((report.name, report.description) for report in reports))


def facts(report: Report) -> dict[str, Any]:
    """What a report means and what it can be asked, as JSON."""
    from caselog.schema.reports.reading import filters, periods

    return {
        "report": report.name,
        "description": report.description,
        "selected_by": report.period,
        "by": list(periods(report)),
        "where": [column.name for column in filters(report)],
        "depends_on_now": report.depends_on_now,
        "fed_by": report.fed_by,
        "columns": [
            {
                "column": column.name,
                "kind": column.kind if column.whole else "fraction",
                "unit": column.unit,
                "description": column.description,
            }
            for column in report.columns
        ],
    }


def _describe(report: Report, *, json: bool) -> None:
    said = facts(report)
    if json:
        write_json(said)
        return
    sys.stdout.write("".join(f"{line}\n" for line in (f"{report.name}: {report.description}", *_asking(said))))
    names = ("column", "kind", "unit", "description")
    print_table(names, ([column[name] for name in names] for column in said["columns"]))


def _asking(said: dict[str, Any]) -> list[str]:
    return [
        f"--from, --to: {said['selected_by']}",
        f"--by: {', '.join(said['by']) or 'not possible, it lists single rows'}",
        f"--where: {', '.join(said['where'])}",
        f"--now: {'the moment of asking counts' if said['depends_on_now'] else 'the moment of asking changes nothing'}",
        f"fed by: {said['fed_by']}",
    ]


def page(reports: list[Report]) -> str:
    """The page docs/report-columns.md."""
    lines = [
        "# What the columns of the reports mean",
        "",
        "Generated by `caselog report --describe --markdown` from the declarations in `schema/reports/declarations/`.",
        "How reports are made and asked: [reports.md](reports.md).",
    ]
    for report in reports:
        said = facts(report)
        lines += ["", f"## `{report.name}`", "", f"{report.description}.", ""]
        lines += [f"* {line.replace('--', '`--', 1).replace(':', '`:', 1)}" for line in _asking(said)[:-1]]
        lines += [
            f"* Fed by {said['fed_by']}.",
            "",
            "| column | kind | unit | description |",
            "| --- | --- | --- | --- |",
        ]
        for column in said["columns"]:
            lines.append(f"| `{column['column']}` | {column['kind']} | {column['unit']} | {column['description']} |")
    return "\n".join(lines) + "\n"


def _form(form: Format, output: Path | None, *, json: bool, plot: bool, bom: bool) -> Format:
    if plot and (json or bom or output is not None or form is not Format.TABLE):
        raise typer.BadParameter("a plot is for the terminal: leave out format and file", param_hint="--plot")
    if json and form not in (Format.TABLE, Format.JSONL):
        raise typer.BadParameter(f"this is --format jsonl, and not {form}", param_hint="--json")
    chosen = Format.JSONL if json else form
    check_form(chosen, output, bom=bom)
    return chosen


def _asked(
    report: Report,
    settings: Settings,
    *,
    first: str | None,
    last: str | None,
    by: str | None,
    where: list[str] | None,
    now: str | None,
    plot: bool,
) -> Reading:
    from caselog.schema.reports.reading import Reading
    from caselog.workers.commands.moments import moment

    return Reading(
        report=report,
        first=_day(first, "--from"),
        last=_day(last, "--to"),
        by=None if plot and not report.measures else cast("By | None", by),
        where=_conditions(where or []),
        now=datetime.now(UTC) if now is None else moment(now, settings.zone, "--now"),
        zone=settings.zone,
    )


def _day(value: str | None, option: str) -> date:
    if value is None:
        raise typer.BadParameter("give a day such as 2026-11-23", param_hint=option)
    try:
        return datetime.strptime(value, "%Y-%m-%d").date()  # noqa: DTZ007 - a local day has no time zone
    except ValueError:
        raise typer.BadParameter(f"{value!r} is no day; give one such as 2026-11-23", param_hint=option) from None


def _conditions(texts: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or _is_no_text(text):
            raise typer.BadParameter(f"{text!r} is no condition; give one such as category=debt", param_hint="--where")
        if column in found:
            raise typer.BadParameter(f"{column!r} is given twice, and a row has one value of it", param_hint="--where")
        found[column] = value or None
    return found


def _is_no_text(value: str) -> bool:
    """Bytes that are no UTF-8 reach us in this way, and no column holds them."""
    return any("\ud800" <= char <= "\udfff" for char in value)


def _write(asked: Reading, form: Format, output: Path | None, *, bom: bool) -> None:
    from caselog.schema.reports.reading import read_rows
    from caselog.workers.commands.database import reading
    from caselog.workers.terminal.progress import counting

    with reading() as db, counting(f"reading {asked.report.name}", None) as advance:
        rows = counted(read_rows(db, asked), advance)  # asked for here: what fails now leaves no output
        with output_to(output) as out:
            write(out, asked.columns, rows, form, bom=bom)


def _show(asked: Reading, output: Path | None) -> None:
    from caselog.schema.reports.reading import read_rows, read_totals
    from caselog.workers.commands.database import reading
    from caselog.workers.terminal.report_table import table

    with reading() as db:
        rows = list(read_rows(db, asked, most=TABLE_ROWS + 1))
        totals = None
        if rows and asked.report.measures:
            totals = ("total", *[None] * (len(asked.report.dimensions) - 1), *read_totals(db, asked))
    fits = shutil.get_terminal_size().columns if output is None and sys.stdout.isatty() else None
    with output_to(output) as out:
        out.write(f"{asked.report.name}: {asked.first} to {asked.last}\n".encode())
        for line in table(asked.columns, rows[:TABLE_ROWS], zone=asked.zone, totals=totals, width=fits):
            out.write(f"{line}\n".encode())
    if not rows:
        sys.stderr.write(f"no rows from {asked.first} to {asked.last}\n")
    if len(rows) > TABLE_ROWS:
        summed_up = " and summed up they are fewer: --by month" if asked.report.measures else ""
        sys.stderr.write(
            f"only the first {TABLE_ROWS:,} rows are shown{'; the total is of all' if totals else ''}. "
            f"All rows: --format csv{summed_up}\n"
        )


def _plot(asked: Reading, by: str | None) -> None:
    from caselog.schema.reports.reading import check_period, read_series
    from caselog.workers.commands.database import reading
    from caselog.workers.terminal.line_plot import draw, filled

    report, measure = asked.report, asked.report.main_measure
    period = check_period(by or ("month" if report.is_monthly else "day"))
    with reading() as db:
        points = [(day, value) for day, value in read_series(db, asked, period) if value is not None]
    if not points:
        sys.stderr.write(f"nothing to draw from {asked.first} to {asked.last}\n")
        return
    what = "rows" if measure is None else measure.name
    size = shutil.get_terminal_size()
    is_terminal = sys.stdout.isatty()
    sys.stdout.write(
        draw(
            filled(points, period) if measure is None or measure.whole else points,
            title=f"{report.name if what == report.name else f'{report.name}: {what}'} by {period}",
            unit="rows" if measure is None else measure.unit,
            width=size.columns,
            height=min(size.lines - 1, _PLOT_LINES) if is_terminal else _PLOT_LINES,
            colored=has_colors(),
        )
    )
