"""``tidegate keys``: the key files of a fleet."""

from pathlib import Path

from cyclopts import App

app = App(name="keys", help="Make and inspect the keys of a fleet.", version_flags=[])


@app.command
def init(directory: Path, *, dev: bool = False) -> None:
    """Write a complete set of unencrypted development keys and their root document.

    A production configuration refuses them: whoever can read the directory can release anything.

    Parameters
    ----------
    directory
        Where the keys go; it is created, and keys in it are never overwritten.
    dev
        Must be given: it says that you know what these keys are for.
    """
    import sys
    import time

    from firmware_store.errors import ConfigurationError
    from firmware_store.root import ROOT_FILE, RoleName, init_dev_keys

    if not dev:
        raise ConfigurationError("these keys are unencrypted and all in one place: say --dev if that is what you want")
    root = init_dev_keys(directory, fleet=None, now=int(time.time()))
    thresholds = ", ".join(f"{root.roles[name].threshold} {name}" for name in RoleName)
    print(f"Development keys for fleet {root.fleet.hex()}: {thresholds}. Not for production.", file=sys.stderr)
    print(directory / ROOT_FILE)
