"""The commands of a SUIT manifest: a flat array of command, argument, command, argument, ...

Each method takes the one command that the profile has next, and raises ManifestError or CodecError for any other.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

from firmware_store.codec import Key, Value, decode
from firmware_store.errors import ManifestError
from firmware_store.shapes import as_bytes, as_int, as_list, as_map
from firmware_store.suit_labels import Command, Parameter, Report
from firmware_store.suit_values import MAX_SLOTS

T = TypeVar("T")
# None where one image fits every slot.
BySlot: TypeAlias = Mapping[int | None, T]
Parameters: TypeAlias = dict[Key, Value]


def nested(value: Value, what: str) -> Value:
    """Return the item inside of a byte string."""
    return decode(as_bytes(value, what))


class CommandSequence:
    """A cursor over one sequence, for a manifest of this many ``components``."""

    def __init__(self, encoded: Value, what: str, *, components: int) -> None:
        self._what = what
        self._components = components
        self._items = as_list(nested(encoded, what), what)
        self._at = 0

    def is_next(self, command: Command) -> bool:
        return self._items[self._at : self._at + 1] == [command]

    def take(self, command: Command) -> Value:
        """Return the argument of the next command, which must be ``command``."""
        pair = self._items[self._at : self._at + 2]
        if len(pair) < 2 or pair[0] is True or pair[0] != command:
            found = f"command {pair[0]!r}" if pair else "its end"
            raise ManifestError(f"the {self._what} must have {command.name} ({command}) where it has {found}")
        self._at += 2
        return pair[1]

    def select(self, index: int) -> None:
        """Where there are several components, the next command must choose ``index`` (True: all of them)."""
        if self._components > 1:
            chosen = self.take(Command.SET_COMPONENT_INDEX)
            if type(chosen) is not type(index) or chosen != index:
                raise ManifestError(f"the {self._what} selects component {chosen!r} where it must select {index!r}")

    def report(self, command: Command, policy: Report) -> None:
        """Take a command whose argument is its reporting policy."""
        as_int(self.take(command), f"the reporting policy of {command.name}", least=policy, most=policy)

    def parameters(self, *labels: Parameter, optional: tuple[Parameter, ...] = ()) -> Parameters:
        what = f"the parameters in the {self._what}"
        return as_map(self.take(Command.OVERRIDE_PARAMETERS), what, labels=labels, optional=optional)

    def end(self) -> None:
        if self._at != len(self._items):
            raise ManifestError(f"the {self._what} goes on after its last command")

    def each_slot(self, index: int, labels: tuple[Parameter, ...], read: Callable[[Parameters], T]) -> BySlot[T]:
        """Read parameters of component ``index`` that are the same in every slot, or those of each slot."""
        if self.is_next(Command.TRY_EACH):
            return self.slots(index, labels, read)
        return {None: read(self.parameters(*labels))}

    def slots(self, index: int, labels: tuple[Parameter, ...], read: Callable[[Parameters], T]) -> BySlot[T]:
        """Read a try-each of the slots of component ``index``, which are in ascending order."""
        found: dict[int | None, T] = {}
        least = 0
        for choice in as_list(self.take(Command.TRY_EACH), "try-each of slots", least=2, most=MAX_SLOTS):
            commands = CommandSequence(choice, "sequence of a slot", components=self._components)
            commands.select(index)
            chosen = commands.parameters(Parameter.COMPONENT_SLOT)[Parameter.COMPONENT_SLOT]
            slot = as_int(chosen, "slot", least=least, most=MAX_SLOTS - 1)
            commands.report(Command.COMPONENT_SLOT, Report.MATCH)
            found[slot] = read(commands.parameters(*labels))
            commands.end()
            least = slot + 1
        return found
