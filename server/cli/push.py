"""``tidegate bundle push``: upload a signed bundle."""

from pathlib import Path

from firmware_store.errors import InvalidInputError
from server.cli.client import BUNDLE_MEDIA_TYPE, DEFAULT_URL, Client, Token, Url, call


def push(file: Path, *, token: Token, server: Url = DEFAULT_URL) -> None:
    """Upload a signed bundle and print its id; the server takes nothing it cannot verify to the last byte.

    Parameters
    ----------
    file
        The bundle file.
    """
    if not file.is_file():
        raise InvalidInputError(f"There is no file {file}.")

    size_bytes = file.stat().st_size

    async def upload(client: Client) -> str:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), disable=not Console(stderr=True).is_terminal) as progress:
            task = progress.add_task(file.name, total=size_bytes)
            bundle = await client.upload(
                "/v1/bundles", file, BUNDLE_MEDIA_TYPE, lambda sent: progress.advance(task, sent)
            )
        return str(bundle["id"])

    print(call(server, token, upload))
