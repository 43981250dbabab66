"""``tidegate context``: servers by name."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from firmware_store.errors import InvalidInputError
from server.cli import contexts
from server.cli.output import Format, show

app = App(name="context", help="Keep servers and tokens under names.")

Name = Annotated[str, Parameter(help="What it is called.")]


@app.command
def add(name: Name, *, url: str, token_file: Path | None = None, use: bool = True) -> None:
    """Keep a server's URL and a token under a name; one of the same name is replaced.

    Parameters
    ----------
    url
        Where the server listens, such as https://updates.example.com.
    token_file
        A file with the token; without it, it is read from standard input. On the command line others could read it.
    use
        Use it from now on wherever no context is named.
    """
    from server.cli.ask import read_file

    if not name or not name.isprintable() or name.startswith("-") or "/" in name:
        raise InvalidInputError("A context's name is printable, has no / and does not begin with -.")
    if not url.startswith(("http://", "https://")):
        raise InvalidInputError("A server's URL begins with http:// or https://.")
    given = sys.stdin.buffer.readline() if token_file is None else read_file(token_file)
    token = given.decode("ascii", "replace").strip()
    if not token or not token.isprintable() or " " in token:
        raise InvalidInputError("A token is one word, such as tg_....")
    path = contexts.contexts_file()
    kept = contexts.load(path)
    kept.named[name] = contexts.Named(url.rstrip("/"), token)
    if use:
        kept.current = name
    contexts.save(path, kept)


@app.command(name="use")
def use_one(name: Name) -> None:
    """Use it from now on wherever no context is named."""
    path = contexts.contexts_file()
    kept = contexts.load(path)
    kept.get(name)
    kept.current = name
    contexts.save(path, kept)


@app.command
def ls(*, output: Format = "table") -> None:
    """List them; tokens are not shown."""
    kept = contexts.load(contexts.contexts_file())
    rows = [
        {"name": name, "url": one.url, "current": "*" if name == kept.current else ""}
        for name, one in sorted(kept.named.items())
    ]
    show(rows, ("current", "name", "url"), output)


@app.command
def rm(name: Name) -> None:
    """Forget one, its token included; the token itself stays valid until it is revoked."""
    path = contexts.contexts_file()
    kept = contexts.load(path)
    kept.get(name)
    del kept.named[name]
    if kept.current == name:
        kept.current = None
    contexts.save(path, kept)
