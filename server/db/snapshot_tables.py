"""What a database consists of, asked of its own catalogue: tables, what they refer to, sequences, triggers.

Statements for a backup and for its return. A name that comes out of here is one of the database's own, and quoted
wherever it becomes a part of a statement.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import asyncpg

from firmware_store.errors import SchemaError

LEFT_OUT: Final = frozenset({"schema_migration", "lease", "ticket_secret"})
"""Tables that no backup holds: two belong to the database they are in, and a secret is made anew."""

TABLES: Final = """
    SELECT c.relname AS name, array_agg(a.attname ORDER BY a.attnum) AS columns
      FROM pg_class AS c
      JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
     WHERE c.relnamespace = current_schema()::text::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
     GROUP BY c.relname ORDER BY c.relname
"""

REFERENCES: Final = """
    SELECT child.relname AS child, parent.relname AS parent
      FROM pg_constraint AS k
      JOIN pg_class AS child ON child.oid = k.conrelid
      JOIN pg_class AS parent ON parent.oid = k.confrelid
     WHERE k.contype = 'f' AND k.connamespace = current_schema()::text::regnamespace AND child.oid <> parent.oid
"""

SEQUENCES: Final = """
    SELECT sequencename AS name, last_value
      FROM pg_sequences WHERE schemaname = current_schema() AND last_value IS NOT NULL
"""

SET_SEQUENCE: Final = "SELECT setval(quote_ident($1)::regclass, $2)"

# Those that enforce references are the system's own, and stay.
TRIGGERS: Final = """
    SELECT c.relname AS table_name, t.tgname AS name, t.tgenabled = 'A' AS is_always
      FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
     WHERE c.relnamespace = current_schema()::text::regnamespace AND NOT t.tgisinternal AND t.tgenabled <> 'D'
"""

# What is ours and all that hangs on it; what an extension has brought stays.
DROPS: Final = """
    SELECT format('DROP %s IF EXISTS %s CASCADE', kind, name) AS statement
      FROM (SELECT 1 AS place, 'TABLE' AS kind, c.oid::regclass::text AS name, 'pg_class'::regclass AS class, c.oid
              FROM pg_class AS c
             WHERE c.relnamespace = current_schema()::text::regnamespace AND c.relkind IN ('r', 'p')
            UNION ALL
            SELECT 2, CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'SEQUENCE' END,
                   c.oid::regclass::text, 'pg_class'::regclass, c.oid
              FROM pg_class AS c
             WHERE c.relnamespace = current_schema()::text::regnamespace AND c.relkind IN ('v', 'm', 'S')
            UNION ALL
            SELECT 3, 'ROUTINE', p.oid::regprocedure::text, 'pg_proc'::regclass, p.oid
              FROM pg_proc AS p WHERE p.pronamespace = current_schema()::text::regnamespace
            UNION ALL
            SELECT 4, 'TYPE', t.oid::regtype::text, 'pg_type'::regclass, t.oid
              FROM pg_type AS t
             WHERE t.typnamespace = current_schema()::text::regnamespace AND t.typtype IN ('e', 'd')) AS ours
     WHERE NOT EXISTS (SELECT FROM pg_depend
                        WHERE classid = ours.class AND objid = ours.oid AND deptype = 'e')
     ORDER BY place, name
"""


class TableShape(NamedTuple):
    """A table and its columns, without generated ones."""

    name: str
    columns: tuple[str, ...]


async def read_tables(connection: asyncpg.Connection) -> list[TableShape]:
    """Return the tables of a backup in an order in which they can be filled: what is referred to comes first.

    Raises:
        SchemaError: tables that refer to each other in a circle.
    """
    rows = await connection.fetch(TABLES)
    shapes = {row["name"]: TableShape(row["name"], tuple(row["columns"])) for row in rows}
    parents: dict[str, set[str]] = {name: set() for name in shapes}
    for row in await connection.fetch(REFERENCES):
        parents[row["child"]].add(row["parent"])
    return [shapes[name] for name in _in_order(parents) if name not in LEFT_OUT]


def _in_order(parents: Mapping[str, Iterable[str]]) -> Sequence[str]:
    left = {name: set(before) for name, before in parents.items()}
    ordered: list[str] = []
    while left:
        free = sorted(name for name, before in left.items() if before.isdisjoint(left))
        if not free:
            raise SchemaError(f"These tables refer to each other in a circle: {', '.join(sorted(left))}.")
        ordered += free
        for name in free:
            del left[name]
    return ordered


def quoted(name: str) -> str:
    """Return a name as a statement may have it."""
    return '"{}"'.format(name.replace('"', '""'))
