"""Reading scenarios: a file's, or one of those that are shipped, by its name."""

from importlib.resources import files
from pathlib import Path

from device_sim.scenario.model import Scenario
from firmware_store.errors import InvalidInputError
from server.domain.yaml_text import MAX_BYTES, read_documents, validated


def shipped() -> list[str]:
    """Return the names of the scenarios that come with this package."""
    folder = files("device_sim.scenarios")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load(name: str) -> Scenario:
    """Return the scenario in the file of this path, or the shipped one of this name.

    Raises:
        InvalidInputError: there is none, or it is none; the text says where.
    """
    path = Path(name)
    if not path.exists() and name in shipped():
        return parse(files("device_sim.scenarios").joinpath(f"{name}.yaml").read_bytes(), called=name)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as exc:
        known = ", ".join(shipped())
        raise InvalidInputError(f"Cannot read {name}: {exc.strerror}. Those that are shipped: {known}.") from exc
    return parse(data, called=path.stem)


def parse(data: bytes, *, called: str) -> Scenario:
    """Return the scenario that a text says. ``called``: its file's name without its ending, which it must have.

    Raises:
        InvalidInputError: it is none; the text says where.
    """
    documents = read_documents(data, name=called)
    if len(documents) != 1:
        raise InvalidInputError(f"{called} has {len(documents)} documents; a scenario is one.")
    scenario = validated(Scenario, documents[0], claim=f"{called} is not a scenario")
    if scenario.name != called:
        raise InvalidInputError(
            f"{called} says that its name is {scenario.name}: that is what its file must be called."
        )
    return scenario
