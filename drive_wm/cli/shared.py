"""What every command does around its work: the run folder, the table on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer


def do(command: str, out: Path | None, overwrite: bool, function: str | Callable[..., Any], /,
        **options: Any) -> None:
    """Calls ``function(out=..., **options)``, "module:name" imported now, and shows what its run folder says."""
    from drive_wm.config import load_object
    from drive_wm.eval.run_folder import clear_run, next_folder, read_summary

    folder = out or next_folder(command)
    if overwrite:
        clear_run(folder, command)
    call = load_object(function) if isinstance(function, str) else function
    print(f"run folder: {folder}", flush=True)
    answer = call(out=folder, **options)
    summary = read_summary(folder)
    results = summary["results"] if summary is not None else answer
    if isinstance(results, Mapping):
        show_results(command, results)
    if (folder / "report.html").is_file():
        print(f"report: {folder / 'report.html'}")


def resumable(out: Path | None, resume: bool) -> None:
    if resume and out is None:
        raise typer.BadParameter("--resume needs --out, the folder of the run to continue")


def drives(source: str | list[str], log: str | None) -> tuple[Any, list[str]]:
    """The opened source, and the ids asked for: the one named, or all."""
    from drive_wm.datasets.sources import open_source
    from drive_wm.types import InputError

    opened = open_source(source)
    ids = [log] if log is not None else opened.log_ids()
    if not ids:
        raise InputError(f"source {source if isinstance(source, str) else ', '.join(source)}: holds no drive")
    return opened, ids


def show_results(title: str, results: Mapping[str, Any]) -> None:
    """Plain values as one table, every list of records as a table of its own."""
    tables = {key: value for key, value in results.items()
              if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)}
    facts(title, {key: value for key, value in results.items() if key not in tables})
    for name, rows in tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table(name.replace("_", " "), columns, [[row.get(column) for column in columns] for row in rows])


def sections(results: Mapping[str, Any]) -> list[Any]:
    """What ``show_results`` prints, as sections of a report."""
    from drive_wm.eval.report import Heading, KeyValues, Table

    tables = {key: value for key, value in results.items() if isinstance(value, list)}
    sections: list[Any] = [KeyValues({key: value for key, value in results.items() if key not in tables})]
    for name, rows in tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        sections += [Heading(name.replace("_", " ")), Table(columns, [[row.get(c) for c in columns] for row in rows])]
    return sections


def facts(title: str, facts: Mapping[str, Any]) -> None:
    if facts:
        table(title, ["", ""], [(key, say(value)) for key, value in facts.items()])


def say(value: Any) -> str:
    from drive_wm.eval.report import cell

    if isinstance(value, Mapping):
        return ", ".join(f"{key} {say(item)}" for key, item in value.items())
    return ", ".join(map(say, value)) or "none" if isinstance(value, (list, tuple)) else cell(value)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table; of many columns it is turned, or cut where the terminal ends with what is left out named."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from drive_wm.eval.report import Table as Values
    from drive_wm.eval.report import cells, numeric_columns

    values = Values(columns, [[say(v) if isinstance(v, (list, tuple, Mapping)) else v for v in row] for row in rows])
    texts, numbers = cells(values), numeric_columns(values)
    heads = [column.replace("_", " ") for column in columns]
    if turned := len(heads) > 8 >= len(rows):
        heads, *texts = [list(line) for line in zip(*[heads, *texts])]
    console = Console(highlight=False, markup=False)
    shown = columns_that_fit(heads, texts, console.width)
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_header=any(heads))
    for i, head in enumerate(heads[:shown]):
        right = i > 0 and (turned or i in numbers)
        table.add_column(head, justify="right" if right else "left", overflow="fold",
                         min_width=longest_word([head, *(line[i] for line in texts)]) if shown < len(heads) else None)
    for line in texts:
        table.add_row(*line[:shown])
    console.print(table)
    if shown < len(heads):
        console.print(f"  and {', '.join(heads[shown:])}: in the run folder, or in a wider terminal")


def longest_word(texts: Iterable[str]) -> int:
    return max((len(word) for text in texts for word in text.split()), default=0)


def columns_that_fit(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> int:
    """How many columns can stand side by side without a word being broken; at least two."""
    used = 2
    for i, column in enumerate(zip(heads, *rows)):
        used += 3 + longest_word(column)
        if used > width and i >= 2:
            return i
    return len(heads)
