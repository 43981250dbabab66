"""What a gateway's agent is told: the file ``agent.toml``, checked before anything is done with it."""

import os.path
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from firmware_store.errors import ConfigurationError, InvalidInputError
from server.domain.windows import DURATION_MOST_S, Window

CONFIG_MOST_BYTES: Final = 1 << 16
ID: Final = r"^[a-z0-9][a-z0-9_-]{2,63}$"
PLACE: Final = r"^[a-z0-9][a-z0-9-]{0,31}$"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BrokerTable(_Table):
    """Where the broker is, for a device that was not enrolled or whose broker knows certificates."""

    host: str = Field(description="The broker's name or address.")
    port: int = Field(default=8883, ge=1, le=65_535, description="Its port.")
    tls: bool = Field(default=True, description="Whether it speaks TLS.")
    username: str | None = Field(default=None, description="The user's name, where the broker asks for one.")
    password_file: Path | None = Field(default=None, description="A file (0600) with the password.")
    client_id: str | None = Field(default=None, description="The client id, where it is part of the credential.")
    topic_root: str = Field(default="tg/1", description="What all topics begin with.")


class EnrolmentTable(_Table):
    """How the device gets its identity, and keeps it."""

    server: str = Field(description="The server's URL, https.")
    claim_file: Path | None = Field(
        default=None, description="A file with the claim token; it is used where the device is not enrolled yet."
    )
    allow_http: bool = Field(default=False, description="Go over plain HTTP: whoever is on the way can be the device.")


class FileSlotsTable(_Table):
    """Slots as two folders below `state`, chosen by `tidegate agent boot`."""

    kind: Literal["files"] = Field(description="`files`")


class UBootSlotsTable(_Table):
    """Slots as partitions, chosen by U-Boot's boot script (`deploy/u-boot/boot.cmd`)."""

    kind: Literal["u-boot"] = Field(description="`u-boot`")
    environment: Path = Field(
        default=Path("/etc/fw_env.config"), description="Where U-Boot's redundant environment is, as for `fw_printenv`."
    )
    a: Mapping[str, Path] = Field(min_length=1, description="A partition, or a file, for each component of slot a.")
    b: Mapping[str, Path] = Field(min_length=1, description="The same for slot b.")
    kernel_command_line: Path = Field(default=Path("/proc/cmdline"), description="Where the running slot is named,")
    slot_parameter: str = Field(default="tidegate.slot", description="by this parameter: `a` or `b`.")
    factory_version: str = Field(default="1.0.0", description="The version of what is there before the first update.")

    @model_validator(mode="after")
    def _places_are_apart(self) -> Self:
        """A place that is in both slots, or twice in one, is overwritten while it runs."""
        if self.a.keys() != self.b.keys():
            raise ValueError("slots a and b must have the same components")
        places = [Path(os.path.normpath(place)) for slot in (self.a, self.b) for place in slot.values()]
        if len(set(places)) != len(places):
            raise ValueError("each component of each slot needs a partition of its own")
        return self


class RaucSlotsTable(_Table):
    """Slots that RAUC writes and switches; releases have one component, a RAUC bundle. Needs the extra `[rauc]`."""

    kind: Literal["rauc"] = Field(description="`rauc`")
    component: str = Field(default="rauc", description="The component's name in releases.")
    a: str = Field(default="A", description="The boot name of slot a, as RAUC's system.conf has it.")
    b: str = Field(default="B", description="The boot name of slot b.")
    bus: str = Field(default="SYSTEM", description="The bus where RAUC is: `SYSTEM`, or a D-Bus address.")
    factory_version: str = Field(default="1.0.0", description="The version of what is there before the first update.")


SlotsTable: TypeAlias = Annotated[FileSlotsTable | UBootSlotsTable | RaucSlotsTable, Field(discriminator="kind")]


class HealthTable(_Table):
    """What is asked whether the running release works."""

    directory: Path | None = Field(
        default=None, description="Executables that are run in the order of their names; all have to exit with 0."
    )
    timeout_s: float = Field(default=30, gt=0, le=3600, description="How long each of them may take, in seconds.")


class WindowTable(_Table):
    """When the device may start and activate, in its local time."""

    opens: str = Field(description="Five cron fields: when it opens.")
    duration_s: int = Field(ge=1, le=DURATION_MOST_S, description="How long it stays open, in seconds.")


class GatesTable(_Table):
    """What has to hold on the device itself before it starts or activates."""

    free_bytes_least: int = Field(default=0, ge=0, description="So much is to be free where `state` lies, in bytes.")
    battery_percent_least: int = Field(
        default=0, ge=0, le=100, description="A device that runs on its battery needs so much charge, in percent."
    )
    power_supplies: Path = Field(
        default=Path("/sys/class/power_supply"), description="Where the kernel shows batteries and mains."
    )
    windows: tuple[WindowTable, ...] = Field(default=(), max_length=8, description="Its own maintenance windows.")
    time_zone: str | None = Field(default=None, description="Of the windows, such as Europe/Berlin; else the system's.")
    look_again_s: float = Field(default=30, gt=0, le=3600, description="How often disk and battery are looked at.")

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in available_timezones():
            raise ValueError(f"{name!r} is not a time zone")
        return name

    @field_validator("windows")
    @classmethod
    def _open(cls, windows: tuple[WindowTable, ...]) -> tuple[WindowTable, ...]:
        for window in windows:
            try:
                Window(window.opens, window.duration_s)
            except InvalidInputError as exc:
                raise ValueError(str(exc)) from exc
        return windows


class RebootTable(_Table):
    """How the machine is made to boot the slot that is next."""

    command: tuple[str, ...] = Field(
        default=("systemctl", "reboot"), min_length=1, description="Run without a shell; it may return before the end."
    )
    timeout_s: float = Field(
        default=300, gt=0, description="The command is run again when the agent still lives so much later, in seconds."
    )


class WatchdogTable(_Table):
    """Who notices when the agent hangs. systemd's (`WatchdogSec=`) is served wherever it asks for it."""

    device: Path | None = Field(default=None, description="A watchdog of the kernel, such as /dev/watchdog.")
    interval_s: float = Field(default=10, gt=0, le=60, description="How often that one is told, in seconds.")


class AgentConfig(_Table):
    """One gateway. Paths that are not absolute are below the file's own folder."""

    state: Path = Field(description="The agent's own folder, on a medium that outlasts updates.")
    root: Path | None = Field(default=None, description="The pinned trust root; else the one in `identity`.")
    identity: Path | None = Field(
        default=None, description="The folder of `tidegate device enrol`, made by the agent where it has a claim."
    )
    device: str | None = Field(default=None, pattern=ID, description="The device's id; else the one in `identity`.")
    region: str | None = Field(default=None, pattern=PLACE, description="Where it is, until the server says otherwise.")
    cohort: str | None = Field(
        default=None,
        pattern=PLACE,
        description="Which part of the fleet it belongs to, until the server says otherwise.",
    )
    vendor: str = Field(description="Who has made the hardware, a DNS name.")
    hardware: str = Field(description="The hardware's class, as releases name it.")
    components: tuple[str, ...] | None = Field(
        default=None, description="The components that a release has to have; without it, any."
    )
    labels: Mapping[str, str] = Field(default={}, description="What the device says of itself, such as its site.")
    authorities: Path | None = Field(
        default=None, description="A PEM file of whom to trust for TLS; else the system's."
    )
    http: bool = Field(default=True, description="Whether it may fetch over HTTP where an offer says so.")
    connect_jitter_s: float = Field(
        default=0,
        ge=0,
        le=3600,
        description="It waits up to so long, by chance, before it connects for the first time.",
    )
    slots: SlotsTable = Field(description="Where releases go, and what boots them.")
    broker: BrokerTable | None = Field(default=None, description="The broker; without it the one in `identity`.")
    enrolment: EnrolmentTable | None = Field(default=None, description="How it gets its identity, and renews it.")
    health: HealthTable = Field(default=HealthTable(), description="Checks of the running release.")
    gates: GatesTable = Field(default=GatesTable(), description="Checks before a start.")
    reboot: RebootTable = Field(default=RebootTable(), description="How to reboot.")
    watchdog: WatchdogTable = Field(default=WatchdogTable(), description="Who notices a hang.")


def read_config(path: Path) -> AgentConfig:
    """Read ``agent.toml``.

    Raises:
        ConfigurationError: it cannot be read, or something in it is wrong; the message names each place.
    """
    try:
        if path.stat().st_size > CONFIG_MOST_BYTES:
            raise ConfigurationError(f"{path} is larger than {CONFIG_MOST_BYTES} bytes")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        config = AgentConfig.model_validate(document)
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{path} is not TOML: {exc}") from exc
    except ValidationError as exc:
        places = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in exc.errors()]
        raise ConfigurationError(f"{path}: {'; '.join(places)}") from exc
    return _below(config, path.parent.absolute())


def _below(config: AgentConfig, folder: Path) -> AgentConfig:
    """Return the same with every path absolute."""
    return config.model_copy(update={name: _placed(value, folder) for name, value in config})


def _placed(value: object, folder: Path) -> object:
    match value:
        case Path():
            return folder / value
        case _Table():
            return value.model_copy(update={name: _placed(inner, folder) for name, inner in value})
        case Mapping():
            return {name: _placed(inner, folder) for name, inner in value.items()}
        case _:
            return value
