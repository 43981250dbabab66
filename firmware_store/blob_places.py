"""Where blobs lie: a folder, or a bucket of S3. Both write whole objects under names that are free, and nothing else.

What differs between the two is here; what a blob is, and that its bytes are checked, is in ``firmware_store.blobs``.
"""

import asyncio
import os
import re
from collections.abc import Awaitable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from firmware_store.errors import ConfigurationError, ConflictError, StoreUnavailableError
from firmware_store.private_files import replace_file, sync_directory, write_new_file

ANSWER_TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 5.0
RETRIES: Final = 4

_ENDPOINTS: Final = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_NOWHERE: Final = "nothing-is-here"
_LEFT: Final = re.compile(r"\.(?:[0-9a-f]{64}|probe)\.[0-9a-f]{16}")  # blobs, and ``BlobStore.probe``

Method: TypeAlias = Literal["GET", "HEAD"]

_T = TypeVar("_T")


class Place(Protocol):
    """A folder or a bucket. Paths are relative, with slashes. All raise StoreUnavailableError without an answer."""

    @property
    def store(self) -> ObjectStore: ...

    async def write(self, path: str, data: bytes, *, replace: bool = False) -> bool:
        """Write an object that survives a power cut; False: there is one already, and it was not to be replaced."""

    async def read(self, path: str) -> bytes:
        """Return an object. Raises: FileNotFoundError: there is none."""

    async def refresh(self, path: str, data: bytes) -> None:
        """Make an object that holds ``data`` as young as if it had been written now."""

    async def check(self) -> None:
        """Return if the place is there."""

    async def presign(self, method: Method, path: str, *, valid: timedelta) -> str | None:
        """Return a URL that lets anybody make one request for so long; None where there is no such thing."""

    async def sweep(self, before: datetime, *, dry_run: bool) -> int:
        """Remove what writes before that time have left half done; return how many such files there were."""


class Folder:
    """A folder of this machine, or one that is mounted."""

    def __init__(self, directory: Path) -> None:
        """Raises: StoreUnavailableError: it cannot be created or entered."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.store = LocalStore(prefix=directory)
        except (OSError, BaseError) as exc:
            raise StoreUnavailableError(f"cannot open the blob store in {directory}") from exc
        self._directory = directory

    def __str__(self) -> str:
        return str(self._directory)

    async def write(self, path: str, data: bytes, *, replace: bool = False) -> bool:
        return await asyncio.to_thread(self._write, self._directory / path, data, replace=replace)

    async def read(self, path: str) -> bytes:
        # For 16 KiB, a thread and the file take half of the processor time of the way through obstore.
        return await answered(asyncio.to_thread((self._directory / path).read_bytes))

    async def refresh(self, path: str, data: bytes) -> None:
        del data
        try:
            await asyncio.to_thread(os.utime, self._directory / path)
        except OSError as exc:
            raise StoreUnavailableError("a blob in the folder of the blob store cannot be made young") from exc

    async def check(self) -> None:
        if not await asyncio.to_thread(self._directory.is_dir):
            raise StoreUnavailableError("the folder of the blob store is gone")  # LocalStore would list nothing

    async def presign(self, method: Method, path: str, *, valid: timedelta) -> str | None:
        del method, path, valid
        return None

    async def sweep(self, before: datetime, *, dry_run: bool) -> int:
        return await asyncio.to_thread(self._sweep, before.timestamp(), dry_run=dry_run)

    def _write(self, file: Path, data: bytes, *, replace: bool) -> bool:
        try:
            if not file.parent.is_dir():
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_directory(file.parent.parent)
                sync_directory(self._directory)
            if replace:
                replace_file(file, data)
            else:
                write_new_file(file, data)
        except ConflictError:
            return False
        except (OSError, ConfigurationError) as exc:
            raise StoreUnavailableError("a blob cannot be written to the folder of the blob store") from exc
        return True

    def _sweep(self, before: float, *, dry_run: bool) -> int:
        """Remove temporary files; whoever still writes one after so long will not finish."""
        count = 0
        try:
            for folder, _, names in os.walk(self._directory):
                for name in filter(_LEFT.fullmatch, names):
                    file = Path(folder, name)
                    if file.stat().st_mtime < before:
                        count += 1
                        if not dry_run:
                            file.unlink(missing_ok=True)
        except OSError as exc:
            raise StoreUnavailableError("the folder of the blob store cannot be swept") from exc
        return count


class Bucket:
    """A bucket of S3, or of something that speaks like it: an object has its name once it is whole.

    Keys, region and endpoint come from the usual variables (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL, ...).
    """

    def __init__(self, url: str, **config: Any) -> None:
        """Open ``s3://bucket/prefix``; ``config`` is obstore's, instead of the variables.

        Raises:
            ConfigurationError: another kind of URL, or a setting that cannot be.
        """
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
            raise ConfigurationError(f"A blob store is s3://bucket or s3://bucket/prefix, and not {url}.")
        self._url = url
        endpoints = [config.get("endpoint_url", ""), *(os.environ.get(name, "") for name in _ENDPOINTS)]
        timeout, connect_timeout = timedelta(seconds=ANSWER_TIMEOUT_S), timedelta(seconds=CONNECT_TIMEOUT_S)
        # The digest goes with the bytes, so that what arrives there otherwise is refused there.
        settings: Any = {"checksum_algorithm": "SHA256", **config}
        try:
            self.store = S3Store(
                parts.netloc,
                prefix=parts.path.strip("/") or None,
                config=settings,
                client_options={
                    "timeout": timeout,
                    "connect_timeout": connect_timeout,
                    "allow_http": any(url.startswith("http://") for url in endpoints),
                },
                retry_config={"max_retries": RETRIES, "retry_timeout": timeout},
            )
        except (OSError, BaseError) as exc:
            raise ConfigurationError(f"The blob store {url} cannot be opened: {exc}.") from exc

    def __str__(self) -> str:
        return self._url

    async def write(self, path: str, data: bytes, *, replace: bool = False) -> bool:
        try:
            await answered(obstore.put_async(self.store, path, data, mode="overwrite" if replace else "create"))
        except AlreadyExistsError:
            return False
        return True

    async def read(self, path: str) -> bytes:
        found = await answered(obstore.get_async(self.store, path))
        return bytes(await answered(found.bytes_async()))

    async def refresh(self, path: str, data: bytes) -> None:
        await self.write(path, data, replace=True)

    async def check(self) -> None:
        try:
            await answered(obstore.list_with_delimiter_async(self.store, _NOWHERE))
        except (FileNotFoundError, StoreUnavailableError) as exc:
            raise StoreUnavailableError(f"{self._url} does not answer, or is not there for this key") from exc

    async def presign(self, method: Method, path: str, *, valid: timedelta) -> str | None:
        return await answered(obstore.sign_async(self.store, method, path, valid))

    async def sweep(self, before: datetime, *, dry_run: bool) -> int:
        del before, dry_run
        return 0


async def answered(request: Awaitable[_T]) -> _T:
    """Bound the wait and name the failure; absence and existence are answers, not failures."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await request
    except (FileNotFoundError, AlreadyExistsError):
        raise
    except (OSError, BaseError) as exc:
        raise StoreUnavailableError("the blob store does not answer") from exc
