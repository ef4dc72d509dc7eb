"""Every setting, read from the environment once, with its default and unit. README.md has them in a table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from lastro_pipes import addresses
from lastro_pipes.errors import Misconfigured

BROKERS = ("kafka", "rabbitmq")
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
NO_REPORTS = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process of one service needs to know. Passwords are in no ``repr``."""

    service: str
    group: str
    broker: str = "kafka"
    prefix: str = ""  # before every topic and group, so that several environments may share a broker
    next_steps: tuple[str, ...] = ()  # what follows this service when a message has no list of steps
    report_topic: str = ""  # "": <service>.event; "off": no reports
    store: str = field(default="", repr=False)  # sqlite:///<file> or postgresql://…; it may hold a password
    kafka_bootstrap_servers: str = ""
    kafka_security_protocol: str = "PLAINTEXT"
    kafka_sasl_mechanism: str = "SCRAM-SHA-512"
    kafka_sasl_username: str = ""
    kafka_sasl_password: str = field(default="", repr=False)
    kafka_ssl_cafile: str = ""
    kafka_ssl_certfile: str = ""
    kafka_ssl_keyfile: str = ""
    kafka_session_s: int = 15  # how long a killed process keeps its partitions from the others
    rabbitmq_url: str = field(default="", repr=False)
    partitions: int = 12
    replication_factor: int = 1
    retention_days_in: int = 7
    retention_days_event: int = 30
    retention_days_error: int = 90
    attempts_max: int = 6  # the first, then after about 0.2, 0.8, 3, 13 and 51 s
    undo_attempts_max: int = 12  # an undo that gives up needs a person, so it tries for longer: about a quarter of an hour
    retry_s: float = 0.2
    retry_s_max: float = 120.0
    inbox_days: int = 90  # for so long a repeated message is known as one; longer than topics keep theirs
    health_port: int = 0  # 0: no HTTP
    log_level: str = "INFO"

    @property
    def sends_reports(self) -> bool:
        """Is anybody told what this service does?"""
        return self.report_topic != NO_REPORTS

    @property
    def reports_to(self) -> str:
        """The topic of this service's reports."""
        return self.report_topic or addresses.topic(self.service, addresses.EVENT)

    @property
    def reads(self) -> tuple[str, str]:
        """The topics that this service reads."""
        return addresses.topic(self.service, addresses.IN), addresses.topic(self.service, addresses.COMPENSATE)


class _Environment:
    """Reads names, and collects what is wrong with all of them, so that one start tells everything."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.problems: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        return self._values.get(name, "").strip() or default

    def shared(self, name: str, default: str = "") -> str:
        """PIPES_<name>, or <name> itself: a pod may have one set of addresses for all its processes."""
        return self.text(f"PIPES_{name}") or self.text(name, default)

    def one_of(self, name: str, value: str, known: tuple[str, ...]) -> str:
        if value not in known:
            self.problems.append(f"{name} is {value!r}; it is one of {', '.join(known)}")
        return value

    def whole(self, name: str, default: int, *, least: int = 1) -> int:
        return int(self._number(name, default, least, int))

    def seconds(self, name: str, default: float) -> float:
        return self._number(name, default, 0.001, float)

    def _number(self, name: str, default: float, least: float, kind: Callable[[str], float]) -> float:
        text = self.text(name)
        try:
            value = kind(text) if text else default
        except ValueError:
            value = float("nan")
        if not least <= value < 1e9:
            self.problems.append(f"{name} is {text!r}; it is a number, {least} or more")
            return default
        return value


def from_environment(values: Mapping[str, str], *, service: str = "") -> Settings:
    """Read the settings. ``service``: what the class says, unless PIPES_SERVICE says otherwise. Raises Misconfigured."""
    env = _Environment(values)
    service = env.text("PIPES_SERVICE", service)
    if not addresses.is_address(service):
        env.problems.append(f"PIPES_SERVICE is {service!r}; it is domain.subdomain.service, in a-z, 0-9 and _")
    found = Settings(
        service=service,
        group=env.text("PIPES_GROUP", service),
        broker=env.one_of("PIPES_BROKER", env.text("PIPES_BROKER", "kafka"), BROKERS),
        prefix=env.text("PIPES_PREFIX") or env.text("MESSAGING_PREFIX"),
        next_steps=tuple(step.strip() for step in env.text("PIPES_NEXT").split(",") if step.strip()),
        report_topic=env.text("PIPES_REPORT_TOPIC"),
        store=env.text("PIPES_STORE", f"sqlite:///pipes-{service}.sqlite3"),
        kafka_bootstrap_servers=env.shared("KAFKA_BOOTSTRAP_SERVERS"),
        kafka_security_protocol=env.shared("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT"),
        kafka_sasl_mechanism=env.shared("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512"),
        kafka_sasl_username=env.shared("KAFKA_SASL_USERNAME"),
        kafka_sasl_password=env.shared("KAFKA_SASL_PASSWORD"),
        kafka_ssl_cafile=env.shared("KAFKA_SSL_CAFILE"),
        kafka_ssl_certfile=env.shared("KAFKA_SSL_CERTFILE"),
        kafka_ssl_keyfile=env.shared("KAFKA_SSL_KEYFILE"),
        kafka_session_s=env.whole("PIPES_KAFKA_SESSION_S", 15, least=6),
        rabbitmq_url=env.shared("RABBITMQ_URL"),
        partitions=env.whole("PIPES_PARTITIONS", env.whole("TOPIC_PARTITIONS", 12)),
        replication_factor=env.whole("PIPES_REPLICATION_FACTOR", env.whole("TOPIC_REPLICATION_FACTOR", 1)),
        retention_days_in=env.whole("PIPES_RETENTION_DAYS_IN", 7),
        retention_days_event=env.whole("PIPES_RETENTION_DAYS_EVENT", 30),
        retention_days_error=env.whole("PIPES_RETENTION_DAYS_ERROR", 90),
        attempts_max=env.whole("PIPES_ATTEMPTS_MAX", 6),
        undo_attempts_max=env.whole("PIPES_UNDO_ATTEMPTS_MAX", 12),
        retry_s=env.seconds("PIPES_RETRY_S", 0.2),
        retry_s_max=env.seconds("PIPES_RETRY_S_MAX", 120.0),
        inbox_days=env.whole("PIPES_INBOX_DAYS", 90),
        health_port=env.whole("PIPES_HEALTH_PORT", 0, least=0),
        log_level=env.one_of("PIPES_LOG_LEVEL", env.text("PIPES_LOG_LEVEL", "INFO"), ("DEBUG", "INFO", "WARNING", "ERROR")),
    )
    problems = env.problems + _inconsistencies(found)
    if problems:
        raise Misconfigured("; ".join(problems) + ".")
    return found


def _inconsistencies(settings: Settings) -> list[str]:
    found = [f"PIPES_NEXT holds {step!r}, which is no service's name" for step in settings.next_steps if not _step(step)]
    if settings.report_topic not in ("", NO_REPORTS) and not addresses.TOPIC.fullmatch(settings.report_topic):
        found.append(
            f"PIPES_REPORT_TOPIC is {settings.report_topic!r}; it is a topic such as saga.pipes.step.event, or off"
        )
    if urlsplit(settings.store).scheme not in ("sqlite", "postgresql", "postgres"):
        found.append("PIPES_STORE is neither sqlite:///<file> nor postgresql://user@host/database")
    if settings.inbox_days < settings.retention_days_in:
        found.append("PIPES_INBOX_DAYS is less than PIPES_RETENTION_DAYS_IN: a message read again would take effect twice")
    return found + (_kafka_problems(settings) if settings.broker == "kafka" else _rabbitmq_problems(settings))


def _step(step: str) -> bool:
    return addresses.is_step(step)


def _kafka_problems(settings: Settings) -> list[str]:
    found = []
    protocol = settings.kafka_security_protocol
    if not settings.kafka_bootstrap_servers:
        found.append("PIPES_KAFKA_BOOTSTRAP_SERVERS is empty; set it to host:port of a broker")
    if protocol not in PROTOCOLS:
        found.append(f"PIPES_KAFKA_SECURITY_PROTOCOL is {protocol!r}; it is one of {', '.join(PROTOCOLS)}")
    elif protocol.startswith("SASL"):
        if settings.kafka_sasl_mechanism not in MECHANISMS:
            known = ", ".join(MECHANISMS)
            found.append(f"PIPES_KAFKA_SASL_MECHANISM is {settings.kafka_sasl_mechanism!r}; it is one of {known}")
        if not (settings.kafka_sasl_username and settings.kafka_sasl_password):
            found.append(f"{protocol} needs PIPES_KAFKA_SASL_USERNAME and PIPES_KAFKA_SASL_PASSWORD")
    if settings.kafka_ssl_keyfile and not settings.kafka_ssl_certfile:
        found.append("PIPES_KAFKA_SSL_KEYFILE is set, but PIPES_KAFKA_SSL_CERTFILE is not; they go together")
    return found


def _rabbitmq_problems(settings: Settings) -> list[str]:
    if urlsplit(settings.rabbitmq_url).scheme in ("amqp", "amqps"):
        return []
    return ["PIPES_RABBITMQ_URL is no address; set it to amqp://user:password@host:port/vhost, or amqps:// for TLS"]
