"""``tidegate bundle push``: upload a signed bundle, without the blobs that the server has already."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from firmware_store.errors import InvalidInputError
from server.cli.client import BUNDLE_MEDIA_TYPE, DEFAULT_URL, Client, Token, Url, call

if TYPE_CHECKING:
    from firmware_store.digest_set import DigestSet

ASK_FROM_BYTES: Final = 1 << 20
"""A smaller bundle is sent before the server could say what it has of it."""

_ASKED: Final = 5000


def push(file: Path, *, token: Token, server: Url = DEFAULT_URL) -> None:
    """Upload a signed bundle and print its id; the server takes nothing it cannot verify to the last byte.

    What the server has of it is not sent: of an upload that broke off, or of a release much like this one.

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

        from firmware_store.bundle import bundle_pieces
        from firmware_store.digest_set import DigestSet
        from firmware_store.sparse import sparse_pieces, sparse_size

        console = Console(stderr=True)
        known = DigestSet(b"") if size_bytes < ASK_FROM_BYTES else await _known(client, file)
        size, pieces = size_bytes, bundle_pieces(file)
        if known:
            size, pieces = sparse_size(file, known), sparse_pieces(file, known)
            console.print(f"The server has {len(known)} blobs of it: {size} bytes are left to send.", highlight=False)
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task(file.name, total=size)
            bundle = await client.upload_pieces(
                "/v1/bundles", pieces, BUNDLE_MEDIA_TYPE, lambda sent: progress.advance(task, sent)
            )
        return str(bundle["id"])

    print(call(server, token, upload))


async def _known(client: Client, file: Path) -> "DigestSet":
    """Ask the server which blobs of the bundle it has."""
    from firmware_store.digest_set import DigestSet
    from firmware_store.sparse import MOST, list_blobs

    digests = list(dict.fromkeys(blob.digest for blob in list_blobs(file)))
    missing: set[bytes] = set()
    for start in range(0, len(digests), _ASKED):
        asked = [digest.hex() for digest in digests[start : start + _ASKED]]
        answer = await client.post("/v1/blobs/missing", {"digests": asked})
        missing.update(map(bytes.fromhex, answer["missing"]))
    return DigestSet.of([digest for digest in digests if digest not in missing][:MOST])
