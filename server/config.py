"""Settings, from the environment (``TIDEGATE_*``) or the command line. ``docs/settings.md`` lists them."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Everything that can be set; the defaults run on one machine with nothing else installed."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", extra="ignore", frozen=True)

    data_dir: Path = Field(Path("var"), description="where the embedded database, broker and the blobs live")
    database_url: SecretStr | None = Field(None, description="PostgreSQL >= 15; without it the embedded one runs")
    mqtt_url: SecretStr | None = Field(
        None, description="mqtt://user:password@host:port or mqtts://...; without it the embedded broker runs"
    )
    device_mqtt_url: str | None = Field(
        None, description="where devices are told to connect, mqtts://host:port; default: where the server connects"
    )
    mqtt_ca: Path | None = Field(
        None, description="PEM file: the authorities that an mqtts:// broker is known by; default: the system's"
    )
    mqtt_certificate: Path | None = Field(
        None, description="PEM file: the server's own certificate for an mqtts:// broker, with its chain"
    )
    mqtt_key: Path | None = Field(None, description="PEM file: the key of mqtt_certificate, not encrypted")
    nats_dir: Path | None = Field(
        None, description="keys of a NATS of your own (deploy/nats), for which devices then get credentials"
    )
    mqtt_client_id: str = Field("tidegate-server", description="the server's fixed client id at an external broker")
    standby: bool = Field(
        False, description="wait while another node serves this database, and take over when it is gone"
    )
    blobs_dir: Path | None = Field(
        None,
        description="where the blobs live, for nodes that take over from each other; default: in the data directory",
    )
    blobs_url: str | None = Field(
        None, description="s3://bucket/prefix instead of a folder; keys, region, endpoint: the usual AWS_* variables"
    )
    upload_most_bytes: int = Field(4 << 30, ge=1, le=1 << 40, description="a larger bundle is not taken in")
    store_quota_bytes: int | None = Field(
        None, ge=1, le=1 << 60, description="all blobs together, at most; an upload that would exceed it is refused"
    )
    keys_dir: Path | None = Field(None, description="trust root and online keys; default: keys in the data directory")
    directive_signer: str | None = Field(
        None,
        description="who signs directives: a key file, or command:PUBLIC-KEY-FILE PROGRAM ARGUMENT...; several, one a "
        "line; default: directive-*.pem in the keys directory",
    )
    session_signer: str | None = Field(
        None, description="who signs welcomes, in the same way; default: session-*.pem in the keys directory"
    )
    key_passphrase: SecretStr | None = Field(None, description="opens the online keys' files")
    host: str = Field("127.0.0.1", description="where REST listens")
    port: int = Field(8080, ge=0, le=65535, description="where REST listens; 0: any free port")
    tls_certificate: Path | None = Field(
        None, description="PEM file: REST is served over TLS with this certificate and its chain; read anew on change"
    )
    tls_key: Path | None = Field(None, description="PEM file: the key of tls_certificate, not encrypted")
    topic_root: str = Field("tg/1", description="root of every MQTT topic")
    public_url: str | None = Field(
        None,
        description="where devices reach this server by HTTP, https://host or https://host/path; without it they fetch "
        "from the broker alone",
    )
    blob_budget_bytes: int = Field(
        512 << 20, ge=0, description="of blobs at the broker at once; a campaign that does not fit is HTTP only"
    )
    blob_grace_s: int = Field(
        3600, ge=0, description="how long blobs that no campaign needs stay at the broker, except after a halt"
    )
    publish_bytes_per_s: int = Field(64 << 20, ge=65_536, description="of blobs that are published to the broker")
    heartbeat_s: int = Field(60, ge=1, le=86_400, description="how often a device beats; told in its welcome")
    environment: Literal["development", "production"] = Field(
        "development", description="production refuses a trust root that is marked for development"
    )
    deltas_most: int = Field(
        4,
        ge=0,
        le=8,
        description="images of each component that deltas are made from, those that most of a campaign's devices run; "
        "0: no deltas",
    )
    delta_codecs: str = Field(
        "zstd", pattern=r"^(zstd|hdiffpatch)(,(zstd|hdiffpatch))?$", description="zstd, hdiffpatch, or zstd,hdiffpatch"
    )
    delta_image_bytes: int = Field(
        256 << 20, ge=0, description="no deltas of larger images; making one takes up to seven times as much memory"
    )
    delta_wait_s: int = Field(
        600, ge=0, le=86_400, description="how long a campaign waits for its deltas before its first wave opens"
    )
    retain_days: int = Field(
        90,
        ge=0,
        le=36_500,
        description="what devices reported in campaigns that are over, claims and operations that ended are deleted "
        "after so many days; 0: never",
    )
    retain_decisions_days: int = Field(
        730,
        ge=0,
        le=36_500,
        description="the same, for the decisions of campaigns that are over; 0: never. The audit is kept for ever",
    )
    approvals: int = Field(
        0, ge=0, le=10, description="approvals that every campaign needs, at least; its policy may want more"
    )
    token_requests_per_s: int = Field(
        300, ge=1, le=1_000_000, description="requests with one token, ten times as many at once; more are told to wait"
    )
    address_failures_per_s: int = Field(
        10, ge=1, le=1_000_000, description="credentials from one address that are not good, ten times as many at once"
    )
    oidc_issuer: str | None = Field(
        None, description="an OpenID provider whose tokens let in, as it names itself in them; takes the extra [oidc]"
    )
    oidc_audience: str | None = Field(None, description="whom its tokens must be for")
    oidc_keys: str | None = Field(None, description="the https:// URL of its JWK set (jwks_uri), or a file")
    oidc_roles: str = Field(
        "",
        description="what claims make somebody, VALUE=ROLE,... (fleet-admins=admin,fleet-ops=operator): the first "
        "that fits",
    )
    oidc_role_claim: str = Field("roles", description="the claim that has these values; a.b is b within a")
    oidc_name_claim: str = Field("sub", description="the claim that says who somebody is")
    oidc_region_claim: str | None = Field(
        None, description="the claim that names the regions somebody may see, * for all; without it, all"
    )
    oidc_cohort_claim: str | None = Field(None, description="the same of cohorts")
    webhook_networks: str = Field(
        "",
        description="networks that webhooks may reach beside the public Internet, such as 10.0.0.0/8,127.0.0.1/32",
    )
    events_days: int = Field(7, ge=1, le=366, description="for how long events are kept, a million at most")
    log_format: Literal["text", "json"] = Field("text", description="on standard error: text for people, or JSON lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least that is logged")

    @property
    def keys(self) -> Path:
        return self.keys_dir or self.data_dir / "keys"

    @property
    def blobs(self) -> Path | str:
        """Return the folder, or the URL, where the blobs are."""
        return self.blobs_url or self.blobs_dir or self.data_dir / "blobs"
