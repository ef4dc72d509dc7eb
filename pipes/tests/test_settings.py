"""The environment: what is right, and what is wrong in words."""

import pytest

from lastro_pipes import Misconfigured, from_environment

KAFKA = {"PIPES_SERVICE": "shop.stock.reserve", "PIPES_KAFKA_BOOTSTRAP_SERVERS": "broker:9092"}
RABBIT = {
    "PIPES_SERVICE": "shop.stock.reserve",
    "PIPES_BROKER": "rabbitmq",
    "PIPES_RABBITMQ_URL": "amqp://user:secret@host:5672//",
}


class TestDefaults:
    def test_a_service_and_an_address_are_enough(self) -> None:
        settings = from_environment(KAFKA)
        assert (settings.group, settings.broker, settings.prefix) == ("shop.stock.reserve", "kafka", "")
        assert settings.reads == ("shop.stock.reserve.in", "shop.stock.reserve.compensate")
        assert settings.reports_to == "shop.stock.reserve.event"
        assert settings.store == "sqlite:///pipes-shop.stock.reserve.sqlite3"

    def test_the_class_names_the_service_and_the_environment_overrules_it(self) -> None:
        assert from_environment({**KAFKA, "PIPES_SERVICE": ""}, service="a.b.c").service == "a.b.c"
        assert from_environment(KAFKA, service="a.b.c").service == "shop.stock.reserve"

    def test_addresses_may_be_shared_with_other_processes(self) -> None:
        shared = {"PIPES_SERVICE": "a.b.c", "KAFKA_BOOTSTRAP_SERVERS": "shared:1", "MESSAGING_PREFIX": "p."}
        assert from_environment(shared).kafka_bootstrap_servers == "shared:1"
        assert from_environment(shared).prefix == "p."
        assert from_environment({**shared, "PIPES_KAFKA_BOOTSTRAP_SERVERS": "own:1"}).kafka_bootstrap_servers == "own:1"

    def test_no_password_is_in_the_repr(self) -> None:
        secrets = {"PIPES_STORE": "postgresql://u:hidden@h/d", "PIPES_KAFKA_SASL_PASSWORD": "hidden"}
        assert "hidden" not in repr(from_environment({**KAFKA, **secrets}))
        assert "secret" not in repr(from_environment(RABBIT))


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"PIPES_SERVICE": "Stock"}, "PIPES_SERVICE"),
            ({"PIPES_SERVICE": ""}, "domain.subdomain.service"),
            ({"PIPES_BROKER": "nats"}, "PIPES_BROKER"),
            ({"PIPES_KAFKA_BOOTSTRAP_SERVERS": ""}, "PIPES_KAFKA_BOOTSTRAP_SERVERS"),
            ({"PIPES_KAFKA_SECURITY_PROTOCOL": "TLS"}, "PIPES_KAFKA_SECURITY_PROTOCOL"),
            ({"PIPES_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "PIPES_KAFKA_SASL_PASSWORD"),
            ({"PIPES_KAFKA_SSL_KEYFILE": "key.pem"}, "PIPES_KAFKA_SSL_CERTFILE"),
            ({"PIPES_ATTEMPTS_MAX": "0"}, "PIPES_ATTEMPTS_MAX"),
            ({"PIPES_ATTEMPTS_MAX": "many"}, "PIPES_ATTEMPTS_MAX"),
            ({"PIPES_RETRY_S": "nan"}, "PIPES_RETRY_S"),
            ({"PIPES_RETRY_S": "-1"}, "PIPES_RETRY_S"),
            ({"PIPES_STORE": "mysql://x"}, "PIPES_STORE"),
            ({"PIPES_NEXT": "two,Three"}, "PIPES_NEXT"),
            ({"PIPES_REPORT_TOPIC": "somewhere"}, "PIPES_REPORT_TOPIC"),
            ({"PIPES_INBOX_DAYS": "3"}, "twice"),
            ({"PIPES_LOG_LEVEL": "LOUD"}, "PIPES_LOG_LEVEL"),
        ],
    )
    def test_say_what_to_do(self, values: dict[str, str], words: str) -> None:
        with pytest.raises(Misconfigured, match=words):
            from_environment({**KAFKA, **values})

    def test_rabbitmq_needs_an_address(self) -> None:
        assert from_environment(RABBIT).broker == "rabbitmq"
        with pytest.raises(Misconfigured, match="PIPES_RABBITMQ_URL"):
            from_environment({**RABBIT, "PIPES_RABBITMQ_URL": "http://host"})

    def test_everything_is_told_at_once(self) -> None:
        with pytest.raises(Misconfigured) as refusal:
            from_environment({"PIPES_SERVICE": "x", "PIPES_ATTEMPTS_MAX": "0", "PIPES_STORE": "x"})
        for name in ("PIPES_SERVICE", "PIPES_ATTEMPTS_MAX", "PIPES_STORE", "PIPES_KAFKA_BOOTSTRAP_SERVERS"):
            assert name in str(refusal.value)
