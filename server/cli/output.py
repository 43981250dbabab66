"""How commands answer: a table for people, JSON or JSON lines for programs; data on standard output alone."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import Parameter

Format = Annotated[Literal["table", "json", "jsonl"], Parameter(name=["--output", "-o"], help="how to print")]


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], form: str) -> None:
    """Print rows; a table shows only ``columns``, JSON everything."""
    if form == "json":
        print(json.dumps(list(rows), indent=2))
        return
    if form == "jsonl":
        for row in rows:
            print(json.dumps(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_text(row.get(column)) for column in columns))
    Console(soft_wrap=True).print(table)


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
