"""A folder outside the data directory, for as long as the server runs.

It takes what must have a short path (a socket) or one that another user can go (programs). Its path is written down
in the data directory, so that the start after a crash removes it.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from server.embedded.account import Account, may_enter
from server.embedded.process import write_private

PREFIX: Final = "tidegate-"


class OutsideFolder:
    def __init__(self, note: Path) -> None:
        self._note = note
        self._folder: Path | None = None

    def for_socket(self, account: Account | None) -> Path:
        """Return the folder, made on the first call."""
        if self._folder is None:
            *_, last = _bases(account)
            self._folder = self._make(last)
        return self._folder

    def for_programs(self, account: Account | None) -> Iterator[Path]:
        """Yield one new folder after the other, each in another place: some do not let programs run."""
        for base in _bases(account):
            self.remove()
            self._folder = self._make(base)
            yield self._folder

    def remove(self) -> None:
        """Remove the folder that this or a killed run has made; whatever else the note may name is left alone."""
        self._folder = None
        try:
            folder = Path(self._note.read_text(encoding="utf-8").rstrip("\n"))
            details = folder.lstat()
        except FileNotFoundError:
            pass
        else:
            if folder.name.startswith(PREFIX) and stat.S_ISDIR(details.st_mode) and details.st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)
        self._note.unlink(missing_ok=True)

    def _make(self, base: Path) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        write_private(self._note, f"{folder}\n")
        folder.chmod(0o711)  # an account passes through to what is its own
        return folder


def _bases(account: Account | None) -> list[Path]:
    """Return where a folder may be made; the last one always serves for a socket."""
    temporary = Path(tempfile.gettempdir())
    if account is None:
        runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or temporary)
        return [runtime if os.access(runtime, os.W_OK | os.X_OK) else temporary]
    # /var/lib: nobody sweeps it, and programs may run there where a hardened /tmp forbids it
    return [base for base in (Path("/var/lib"), temporary) if may_enter(account, base)] or [temporary]
