"""Whom PostgreSQL runs as, and where that user may go.

PostgreSQL refuses to run as root. Under root it runs as an unprivileged account, which can enter neither root's home
nor a private temporary folder; and we open no door for it.
"""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from firmware_store.errors import ConfigurationError
from server.embedded.process import child_environment

ACCOUNT_NAMES: Final = ("postgres", "nobody")
QUESTION_TIMEOUT_S: Final = 30.0


class Identity(TypedDict):
    """The arguments of ``subprocess.Popen`` that say who a child is."""

    user: int | None
    group: int | None
    extra_groups: Sequence[int] | None


@dataclass(frozen=True)
class Account:
    """The user that a child runs as when we are root."""

    uid: int
    gid: int


def identity(account: Account | None) -> Identity:
    """For None, ourselves; otherwise the account with none of root's groups."""
    if account is None:
        return Identity(user=None, group=None, extra_groups=None)
    return Identity(user=account.uid, group=account.gid, extra_groups=())


def choose_account(data: Path) -> Account | None:
    """Return whom to run as: None for ourselves, unless we are root.

    Raises:
        ConfigurationError: the data belong to somebody else, or there is nobody to run as.
    """
    owner = data.stat() if data.exists() else None
    if os.geteuid() != 0:
        if owner and owner.st_uid != os.geteuid():
            raise ConfigurationError(
                f"{data} belongs to user id {owner.st_uid}: start Tidegate as that user or as root."
            )
        return None
    if owner and owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in ACCOUNT_NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise ConfigurationError("PostgreSQL cannot run as root, and there is no user postgres or nobody to run it as.")


def own_name() -> str:
    """Return the name of the user that this server runs as; PostgreSQL knows its clients by name.

    Raises:
        ConfigurationError: it has none, as may be in a container.
    """
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise ConfigurationError(
            f"User id {uid} has no name on this machine, and PostgreSQL wants one: add it to /etc/passwd, or set "
            "TIDEGATE_DATABASE_URL."
        ) from None


def may_enter(account: Account | None, folder: Path) -> bool:
    """Whether the account reaches a folder by its path; the kernel is asked, for mode bits do not tell it all."""
    return succeeds(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)], account)


def succeeds(command: Sequence[str], account: Account | None) -> bool:
    try:
        done = subprocess.run(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=QUESTION_TIMEOUT_S,
            env=child_environment(),
            **identity(account),
        )
    except OSError:
        return False
    return done.returncode == 0
