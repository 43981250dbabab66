"""S3 on this machine: moto's server in a process of its own, with a bucket; a prefix for each test."""

import itertools
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from firmware_store.blob_places import Bucket
from tests.ports import free_port

START_S: Final = 60.0
BUCKET: Final = "firmware"

_numbers = itertools.count(1)


@dataclass(frozen=True)
class S3Peer:
    endpoint: str

    def url(self) -> str:
        """Somewhere in the bucket where nothing is yet."""
        return f"s3://{BUCKET}/blobs-{next(_numbers)}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs to find it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "something",
        }

    def bucket(self, url: str) -> Bucket:
        """Open it in this process."""
        return Bucket(url, **{name.removeprefix("AWS_").lower(): value for name, value in self.environment.items()})


@contextmanager
def running_s3() -> Iterator[S3Peer]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(1 << 20)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        peer = S3Peer(f"http://127.0.0.1:{port}")
        _make_bucket(peer.endpoint, until=time.monotonic() + START_S)
        yield peer
    finally:
        process.kill()
        process.wait()


def _make_bucket(endpoint: str, *, until: float) -> None:
    request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT", data=b"")
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
