"""Every option of the relay, in one class: what it is called, what it may be, what it is when nobody says.

`sources.load` fills it. Units end the names: `_s` seconds, `_bytes` bytes. `config/pgcachewatch.toml` is generated from
this class, and a test compares them. An option whose annotation holds a pydantic.SecretStr is a secret: its value is
never part of a text. One that is declared with `is_reloadable` takes effect at SIGHUP, the others at a restart.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

import pydantic
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

CHANNEL_BYTES = 63  # NAMEDATALEN - 1
# user:password@host:port,host:port/database?parameters
URI = re.compile(
    r"postgres(ql)?://([^:@/?#]*(:[^@/?#]*)?@)?((\[[^\]]*\]|[^:@/?#,\[\]]*)(:[0-9]*)?(,|(?=[/?]|$)))*(/[^@?#]*)?"
    r"(\?([^#&=]+=[^#&]*(&[^#&=]+=[^#&]*)*)?)?"
)

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "text", "json"]
Compression = Literal["off", "shared"]
Seconds = Annotated[float, pydantic.Field(gt=0, le=86_400, allow_inf_nan=False)]
# Texts are given with commas between them, or in the file also as a list.
Texts = Annotated[
    tuple[str, ...],
    pydantic.BeforeValidator(lambda value: _split(value)),
    pydantic.Field(json_schema_extra={"allowed": "texts with commas between them"}),
]
Secret = Annotated[
    Annotated[pydantic.SecretStr, pydantic.Field(min_length=1)] | None,
    pydantic.Field(json_schema_extra={"allowed": "a text that is not empty"}),
]
Networks = Annotated[
    tuple[str, ...],
    pydantic.BeforeValidator(lambda value: _split(value)),
    pydantic.AfterValidator(lambda value: _are_networks(value)),
    pydantic.Field(json_schema_extra={"allowed": "networks as 10.0.0.0/8 with commas between them"}),
]
# Of a file; "" is none.
FilePath = Annotated[str, pydantic.Field(json_schema_extra={"allowed": "the path of a file"})]


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _are_networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for each in values:
        ipaddress.ip_network(each)
    return values


def _is_uri(value: pydantic.SecretStr | None) -> pydantic.SecretStr | None:
    # Strict where libpq is: a password with one of these characters would else be taken for a host, and be shown.
    if value is not None and not URI.fullmatch(value.get_secret_value()):
        raise ValueError("not a URI")
    return value


def _fits_postgresql(channel: str) -> str:
    if not 1 <= len(channel.encode("utf-8", "surrogatepass")) <= CHANNEL_BYTES or "\0" in channel:
        raise ValueError("not a channel")
    return channel


Dsn = Annotated[
    pydantic.SecretStr | None,
    pydantic.AfterValidator(_is_uri),
    pydantic.Field(
        json_schema_extra={
            "allowed": "a URI as postgresql://user:password@host:5432/database, with %40 %2F %3F %23 for @ / ? # in a "
            "password"
        }
    ),
]
Channel = Annotated[
    str,
    pydantic.AfterValidator(_fits_postgresql),
    pydantic.Field(json_schema_extra={"allowed": f"a name of 1 to {CHANNEL_BYTES} bytes"}),
]


# Any: as pydantic.Field, which has to fit any annotation.
def option(default: Any, group: str, why: str, *, is_reloadable: bool = False) -> Any:
    """A field with the heading it stands under in the reference file, and its reason."""
    extra: dict[str, pydantic.JsonValue] = {"group": group, "is_reloadable": is_reloadable}
    return pydantic.Field(default=default, description=why, json_schema_extra=extra)


class Settings(BaseSettings):
    """The effective values. Build it with `load`; `Settings()` is all defaults, whatever the environment says."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    dsn: Dsn = option(
        None,
        "PostgreSQL",
        "The database to watch, as a URI; several hosts may be given, the relay finds the primary. What it leaves out "
        "is as libpq's variables say (PGHOST, PGUSER, PGSERVICE, PGPASSFILE, PGSSLMODE, ...). Best in a file or in the "
        "environment: it holds a password. What is reloaded counts from the next connection on.",
        is_reloadable=True,
    )
    listen_dsn: Dsn = option(
        None,
        "PostgreSQL",
        "A direct way to the same database for the LISTEN connection, when `dsn` leads through a pooler such as "
        "PgBouncer, which loses notifications.",
        is_reloadable=True,
    )
    channel: Channel = option(
        "ch_pgcachewatch_table_change",
        "PostgreSQL",
        "The channel of subscriptions that name none; the one the triggers notify.",
    )
    channels_limit: Annotated[int, pydantic.Field(ge=1, le=100_000)] = option(
        1_000,
        "PostgreSQL",
        "Different channels that the relay listens to, `channel` included. At the limit a new one takes the place of "
        "the one that nobody has used for longest; it is refused when all are in use.",
        is_reloadable=True,
    )
    connect_timeout_s: Seconds = option(
        10.0, "PostgreSQL", "Time for one attempt to connect to one host.", is_reloadable=True
    )
    reconnect_min_s: Seconds = option(
        0.1, "PostgreSQL", "First pause between attempts. It doubles, and half of it is random.", is_reloadable=True
    )
    reconnect_max_s: Seconds = option(
        3.0,
        "PostgreSQL",
        "Longest pause between attempts: how late the relay may notice that the server is back.",
        is_reloadable=True,
    )
    tcp_user_timeout_s: Seconds = option(
        15.0,
        "PostgreSQL",
        "After this time without a sign of life the server ends the relay's session by itself. A relay that hangs "
        "would otherwise hold back VACUUM and fill the server's notification queue.",
        is_reloadable=True,
    )
    queue_usage_interval_s: Seconds = option(
        10.0,
        "PostgreSQL",
        "How often the server's notification queue is measured. The call also frees a queue that ran full.",
        is_reloadable=True,
    )

    journal_poll_ms: Annotated[float, pydantic.Field(ge=1, le=10_000)] = option(
        5.0, "PostgreSQL", "How often the journal is read while rows come. Without --mode journal there is none."
    )
    journal_wake: Literal["gated", "poll"] = option(
        "gated",
        "PostgreSQL",
        "gated: a relay with nothing to read sleeps until a writer notifies. poll: it reads for ever, for tables that "
        "were installed with --wake none.",
    )
    journal_retention_s: Seconds = option(
        600.0,
        "PostgreSQL",
        "How long rows of the journal are kept for relays and clients that come back.",
        is_reloadable=True,
    )
    journal_rows_limit: Annotated[int, pydantic.Field(ge=1_000, le=1_000_000_000)] = option(
        1_000_000, "PostgreSQL", "Rows that are kept at most; above, younger ones are pruned too.", is_reloadable=True
    )

    drift_check_s: Seconds = option(
        60.0,
        "PostgreSQL",
        "How often the tables and their triggers are compared with what was installed. A table whose writes may raise "
        "no event is declared changed each time: caches of it are older than their bound by no more than this.",
        is_reloadable=True,
    )

    consumer_timeout_s: Seconds = option(
        30.0,
        "Consumers",
        "Time that a client has for one job of a durable consumer. Then it goes to another, and counts as tried.",
        is_reloadable=True,
    )
    consumer_tries: Annotated[int, pydantic.Field(ge=1, le=1_000)] = option(
        5, "Consumers", "Times that a job is tried; then it goes into pgcachewatch.dead_letters.", is_reloadable=True
    )
    consumer_retry_s: Seconds = option(
        1.0,
        "Consumers",
        "Pause before a job that a client gave back is given again. It doubles with each try.",
        is_reloadable=True,
    )
    consumer_hold_s: Seconds = option(
        3_600.0,
        "Consumers",
        "How long the journal keeps rows, beyond journal_retention_s, for a consumer that does not acknowledge them. "
        "Behind that, and beyond journal_rows_limit, it is told of a gap.",
        is_reloadable=True,
    )
    consumers_limit: Annotated[int, pydantic.Field(ge=0, le=10_000)] = option(
        100,
        "Consumers",
        "Durable consumers in use at one time. Each of them reads the journal by itself. 0: none.",
        is_reloadable=True,
    )

    heartbeat_s: Seconds = option(
        0.5,
        "Freshness",
        "Time between two proofs of freshness while clients are connected. It must be well below the clients' "
        "staleness bound (default 2 s).",
    )
    idle_heartbeat_s: Seconds = option(15.0, "Freshness", "The same while nobody is connected.")
    loopback_overdue_s: Seconds = option(
        3.0,
        "Freshness",
        "A proof that takes longer means that the connection is dead, whatever it looks like: the relay cuts it and "
        "connects anew. Must be longer than the slowest COMMIT of your database.",
    )
    barriers_limit: Annotated[int, pydantic.Field(ge=1, le=10_000_000)] = option(
        100_000, "Freshness", "Barriers of all clients that may wait for a proof at one time.", is_reloadable=True
    )
    barriers_per_connection_limit: Annotated[int, pydantic.Field(ge=1, le=100_000)] = option(
        1_000, "Freshness", "Barriers of one client that may wait at one time.", is_reloadable=True
    )
    barrier_rate: Annotated[float, pydantic.Field(gt=0, le=1_000_000)] = option(
        1_000.0,
        "Freshness",
        "Barriers that one client may ask for in one second; more are told to wait.",
        is_reloadable=True,
    )

    history_events: Annotated[int, pydantic.Field(ge=0, le=100_000_000)] = option(
        10_000,
        "History",
        "Events kept so that a client that comes back need not flush. Whichever limit is met first.",
        is_reloadable=True,
    )
    history_bytes: Annotated[int, pydantic.Field(ge=0)] = option(
        16_777_216, "History", "Memory for them, roughly.", is_reloadable=True
    )
    history_age_s: Seconds = option(300.0, "History", "Age of the oldest one.", is_reloadable=True)

    host: Annotated[str, pydantic.Field(min_length=1, max_length=255)] = option(
        "127.0.0.1",
        "Serving",
        "Address to listen on. One that others can reach needs authentication: see Access.",
    )
    port: Annotated[int, pydantic.Field(ge=0, le=65_535)] = option(
        8420, "Serving", "Port for clients, health checks and metrics. 0: any free one."
    )
    tls_certificate_file: FilePath = option(
        "",
        "Serving",
        "Certificate in PEM form, with those that lead to its authority behind it. With it the port speaks TLS and "
        "nothing else. Looked at each second: new connections get the new one.",
        is_reloadable=True,
    )
    tls_key_file: FilePath = option(
        "",
        "Serving",
        "Its private key, without a passphrase. Empty: it stands in the file of the certificate.",
        is_reloadable=True,
    )
    tls_client_ca_file: FilePath = option(
        "",
        "Serving",
        "Authorities of client certificates. With it nobody is let in without one, for health checks and metrics "
        "neither.",
        is_reloadable=True,
    )
    trusted_proxies: Networks = option(
        (),
        "Serving",
        "Proxies whose X-Forwarded-For is believed; from others it is ignored. Limits by address and log lines are "
        "then about the clients behind them.",
        is_reloadable=True,
    )
    connections_limit: Annotated[int, pydantic.Field(ge=1, le=1_000_000)] = option(
        10_000, "Serving", "Clients at one time. More are answered with 503.", is_reloadable=True
    )
    connections_per_address_limit: Annotated[int, pydantic.Field(ge=1, le=1_000_000)] = option(
        10_000,
        "Serving",
        "Clients at one time from one address, or from one /64 of IPv6. More are answered with 429. As many as in all "
        "unless you say so: behind a gateway, and of one machine's processes, all come from one.",
        is_reloadable=True,
    )
    handshakes_limit: Annotated[int, pydantic.Field(ge=1, le=1_000_000)] = option(
        1_000,
        "Serving",
        "Sockets that have not said what they want. Above it the oldest is dropped.",
        is_reloadable=True,
    )
    handshake_rate: Annotated[float, pydantic.Field(gt=0, le=1_000_000)] = option(
        2_000.0,
        "Serving",
        "Clients that may begin in one second, more than one core can greet. Others are answered with 503 and come "
        "back spread over some seconds. A quarter of what may begin at once is kept for addresses that take little: "
        "who takes more than a twentieth of the rate beside others is answered with 429.",
        is_reloadable=True,
    )
    subscriptions_limit: Annotated[int, pydantic.Field(ge=1, le=1_000)] = option(
        1_000, "Serving", "Subscriptions of one client.", is_reloadable=True
    )
    client_channels_limit: Annotated[int, pydantic.Field(ge=1, le=1_000)] = option(
        100,
        "Serving",
        "Different channels of one client, beside `channel`: no client can use up `channels_limit` alone.",
        is_reloadable=True,
    )
    outbox_bytes: Annotated[int, pydantic.Field(ge=4_096, le=1_073_741_824)] = option(
        262_144,
        "Serving",
        "What waits for one slow client before its events are conflated (in stream mode: before it is closed).",
    )
    send_buffer_bytes: Annotated[int, pydantic.Field(ge=0, le=1_073_741_824)] = option(
        0, "Serving", "The kernel's send buffer of each client (SO_SNDBUF). 0: the kernel decides.", is_reloadable=True
    )
    compression: Compression = option(
        "off",
        "Serving",
        "Compress what clients are told. off: nothing. shared: for clients that offer permessage-deflate, each write "
        "once for all who ask for the same; worth it where bytes are dearer than CPU.",
        is_reloadable=True,
    )
    handshake_timeout_s: Seconds = option(
        10.0, "Serving", "Time for a client to send its whole HTTP request.", is_reloadable=True
    )
    hello_timeout_s: Seconds = option(
        10.0, "Serving", "Time from the upgrade to the hello; then 4101.", is_reloadable=True
    )
    write_stall_s: Seconds = option(
        10.0, "Serving", "A client that takes no byte for so long is cut (4102). Slow ones are not.", is_reloadable=True
    )
    ping_interval_s: Seconds = option(20.0, "Serving", "Silence after which a client is pinged.", is_reloadable=True)
    pong_timeout_s: Seconds = option(20.0, "Serving", "Time for its answer; then 4106.", is_reloadable=True)

    allow_anonymous: bool = option(
        False,
        "Access",
        "Serve everybody who can reach the relay, without a token, also on an address that is not this machine's own.",
    )
    tokens_file: FilePath = option(
        "",
        "Access",
        "Static tokens, hashed; `pgcachewatch token NAME` makes one. Looked at each second: a token that is taken "
        "out of it is revoked, and so are JSON Web Tokens that its [revoked] names by jti or subjects. With this or a "
        "jwt_ option each client needs a token.",
        is_reloadable=True,
    )
    jwt_secret: Secret = option(
        None,
        "Access",
        "Shared secret of JSON Web Tokens signed with HS256, at least 32 bytes.",
        is_reloadable=True,
    )
    jwt_keys_file: FilePath = option(
        "",
        "Access",
        "Public keys of those signed with RS256, ES256 or EdDSA: PEM or a JWKS. Looked at each second.",
        is_reloadable=True,
    )
    jwt_jwks_url: str = option(
        "",
        "Access",
        "Where to fetch these keys as a JWKS: https, or http of this machine. Old keys stay while it is unreachable.",
        is_reloadable=True,
    )
    jwt_jwks_refresh_s: Seconds = option(
        300.0, "Access", "How often. A token of a key that is not known has it fetched sooner.", is_reloadable=True
    )
    jwt_algorithms: Texts = option(
        ("HS256", "RS256", "ES256", "EdDSA"),
        "Access",
        "Signatures that are accepted. Each key is for one of them, whatever a token says.",
        is_reloadable=True,
    )
    jwt_audience: Texts = option(
        (),
        "Access",
        "What `aud` must name one of. None: tokens that have an audience are refused.",
        is_reloadable=True,
    )
    jwt_issuer: str = option("", "Access", "What `iss` must be. Empty: anything.", is_reloadable=True)
    jwt_leeway_s: Annotated[float, pydantic.Field(ge=0, le=300)] = option(
        5.0, "Access", "What the clock of whoever signs may differ from the relay's.", is_reloadable=True
    )
    allowed_origins: Texts = option(
        (),
        "Access",
        "Web origins whose pages may connect, as https://app.example.com, beside the relay's own page. *: any.",
        is_reloadable=True,
    )

    workers: Annotated[int, pydantic.Field(ge=1, le=256)] = option(
        1,
        "Operation",
        "Processes that serve clients. 1: the relay is one process. More: one more beside them holds the LISTEN "
        "connection and hands changes on; each has its share of connections_limit, connections_per_address_limit, "
        "handshakes_limit, handshake_rate and barriers_limit, and a client that is refused by one may find room at the "
        "next attempt.",
    )
    page: bool = option(
        True,
        "Operation",
        "Serve the page for people at / and its state at /v1/status. An open page costs what one more client costs, "
        "and about 3 ms a second. false: both are 404.",
    )
    node: Annotated[str, pydantic.Field(max_length=200)] = option(
        "", "Operation", "Name of this relay in its welcome. Empty: the host's name."
    )
    log_level: LogLevel = option(
        "info", "Operation", "Least level that is logged, to standard error.", is_reloadable=True
    )
    log_format: LogFormat = option(
        "auto",
        "Operation",
        "text: key=value for people. json: one object per line for machines. auto: text on a terminal, else json.",
    )
    tracing: bool = option(
        False,
        "Operation",
        "An OpenTelemetry span for each event, from its notification to the last write, sent where OpenTelemetry's own "
        "variables say (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER). Needs the extra `otel`.",
    )
    drain_grace_s: Annotated[float, pydantic.Field(ge=0, le=86_400)] = option(
        5.0,
        "Operation",
        "After SIGTERM: time for clients to go, then they are cut. A second signal ends it at once.",
        is_reloadable=True,
    )
    drain_jitter_s: Annotated[float, pydantic.Field(ge=0, le=86_400)] = option(
        1.0, "Operation", "Clients that are sent away spread their return over this time.", is_reloadable=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `load` reads the other sources one by one, because it has to know which of them said what.
        return (init_settings,)
