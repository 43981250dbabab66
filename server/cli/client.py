"""The CLI's and the demo's way to the REST API: one session, problem documents turned back into our errors."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Annotated, Any, Final, Self, TypeVar

import aiohttp
from cyclopts import Parameter

from firmware_store import errors

UPLOAD_PIECE_BYTES: Final = 1 << 18
REQUEST_S: Final = 30.0

Url = Annotated[str, Parameter(name="--server", env_var="TIDEGATE_URL", help="the server's URL")]
Token = Annotated[str, Parameter(env_var="TIDEGATE_TOKEN", help="an API token")]

BUNDLE_MEDIA_TYPE: Final = "application/vnd.tidegate.bundle"
DEFAULT_URL: Final = "http://127.0.0.1:8080"

T = TypeVar("T")

PAGE: Final = 1000
"""Rows of a list that are asked for at once: as many as there may be."""

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Client:
    """An API session; use as an async context manager. Without a token it opens what is open to anybody."""

    def __init__(self, url: str, token: str | None) -> None:
        self._base = url.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_S, sock_read=REQUEST_S),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, **query: str | int | list[str]) -> Any:
        """Return the answer's JSON. Raises: TidegateError as the server's problem document says."""
        return await self._call("GET", path, params=query)

    async def get_all(
        self, path: str, member: str, query: Mapping[str, str | list[str]] = NOTHING, *, most: int | None = None
    ) -> list[dict[str, Any]]:
        """Return a list's rows, page after page, to its end or until there are ``most``. Raises as ``get`` does."""
        rows: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None and (most is None or len(rows) < most):
            limit = PAGE if most is None else min(PAGE, most - len(rows))
            page = await self.get(path, limit=limit, cursor=cursor, **query)
            rows += page[member]
            cursor = page["next"]
        return rows

    async def look(self, path: str) -> tuple[Any, str]:
        """Return the answer's JSON and its ETag. Raises as ``get`` does."""
        try:
            async with self._request("GET", path) as response:
                await _check(response)
                return await response.json(), response.headers.get("ETag", "")
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise errors.StoreUnavailableError(f"The server at {self._base} does not answer: {exc}.") from exc

    async def post(self, path: str, body: object, *, seen: str | None = None) -> Any:
        """Return the answer's JSON; ``seen``: the ETag of what this is decided on. Raises as ``get`` does."""
        return await self._call("POST", path, json=body, headers=_seen(seen))

    async def patch(self, path: str, body: object, *, seen: str) -> Any:
        """Return the answer's JSON. Raises as ``get`` does."""
        return await self._call("PATCH", path, json=body, headers=_seen(seen))

    async def put(self, path: str, body: object, *, seen: str) -> Any:
        """Return the answer's JSON. Raises as ``get`` does."""
        return await self._call("PUT", path, json=body, headers=_seen(seen))

    async def delete(self, path: str, *, seen: str | None = None) -> Any:
        """Return the answer's JSON. Raises as ``get`` does."""
        return await self._call("DELETE", path, headers=_seen(seen))

    async def get_bytes(self, path: str) -> bytes:
        """Return the answer's body. Raises as ``get`` does."""
        try:
            async with self._request("GET", path) as response:
                await _check(response)
                body: bytes = await response.read()
                return body
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise errors.StoreUnavailableError(f"The server at {self._base} does not answer: {exc}.") from exc

    async def get_pieces(self, path: str, **query: str | int | list[str]) -> AsyncIterator[bytes]:
        """Yield the answer's body as it comes. Raises as ``get`` does."""
        try:
            async with self._request("GET", path, params=query) as response:
                await _check(response)
                async for piece in response.content.iter_any():
                    yield piece
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise errors.StoreUnavailableError(
                f"The server at {self._base} does not answer, or broke off: {exc}."
            ) from exc

    async def post_lines(self, path: str, body: object) -> AsyncIterator[Any]:
        """Yield the JSON lines of an answer as they come. Raises as ``get`` does."""
        try:
            async with self._request("POST", path, json=body) as response:
                await _check(response)
                async for line in response.content:
                    yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise errors.StoreUnavailableError(f"The server at {self._base} does not answer: {exc}.") from exc

    async def upload(self, path: str, file: Path, media_type: str) -> Any:
        """Stream a file. Raises as ``get`` does."""
        from firmware_store.bundle import bundle_pieces

        return await self.upload_pieces(path, bundle_pieces(file), media_type)

    async def upload_pieces(
        self, path: str, pieces: AsyncIterable[bytes], media_type: str, sent: Callable[[int], None] | None = None
    ) -> Any:
        """Stream pieces; ``sent`` hears how many bytes went out with each of them. Raises as ``get`` does."""

        async def counted() -> AsyncIterator[bytes]:
            async for piece in pieces:
                yield piece
                if sent is not None:
                    sent(len(piece))

        return await self._call("POST", path, data=counted(), headers={"Content-Type": media_type})

    async def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            async with self._request(method, path, **arguments) as response:
                await _check(response)
                return await response.json()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise errors.StoreUnavailableError(f"The server at {self._base} does not answer: {exc}.") from exc

    def _request(self, method: str, path: str, **arguments: Any) -> Any:
        assert self._session is not None
        return self._session.request(method, self._base + path, **arguments)


_FAMILIES: Final = {
    400: errors.InvalidInputError,
    401: errors.AuthenticationError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    410: errors.WithdrawnError,
    412: errors.StaleError,
    413: errors.InvalidInputError,
    415: errors.InvalidInputError,
    422: errors.InvalidInputError,
    428: errors.InvalidInputError,
    507: errors.StoreFullError,
}


def _seen(tag: str | None) -> dict[str, str]:
    return {} if tag is None else {"If-Match": tag}


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    if response.content_type != "application/problem+json":
        raise errors.TidegateError(f"The server answers {response.status}, and not as Tidegate does.")
    problem = await response.json(content_type=None)
    text = problem.get("detail", "no detail")
    for entry in problem.get("errors", []):
        text += f"\n  {entry.get('pointer', '')}: {entry.get('detail', '')}"
    if problem.get("allowed"):
        text += f" (allowed: {', '.join(problem['allowed'])})"
    raise _FAMILIES.get(response.status, errors.StoreUnavailableError)(text)


def call(url: str, token: str | None, use: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """Run ``use`` with a session, for a command of one or a few requests."""
    import asyncio

    async def main() -> T:
        async with Client(url, token) as client:
            return await use(client)

    return asyncio.run(main())
