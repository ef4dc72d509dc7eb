"""Every metric has one name, in one file, and the names are Prometheus's kind of names."""

import re
from pathlib import Path

import yaml
from django.urls import reverse
from prometheus_client import Metric

from apps.observability import metrics
from apps.observability.metrics import Gauge

ROOT = Path(__file__).resolve().parents[3]
APPS, DEPLOY = ROOT / "apps", ROOT / "deploy" / "prometheus"


def gauges() -> list[Gauge]:
    return [value for value in vars(metrics).values() if isinstance(value, Gauge)]


def counted() -> list[Metric]:
    """What is counted in memory, without the endings that Prometheus's text format adds."""
    return list(metrics.WORK.collect())


class TestNames:
    def test_each_is_ours_and_used_once(self) -> None:
        names = [each.name for each in (*gauges(), *counted())]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"lastro(_[a-z]+)+", name) for name in names)

    def test_no_name_stands_anywhere_else_in_the_apps(self) -> None:
        elsewhere = [
            path
            for path in APPS.rglob("*.py")
            if path != Path(metrics.__file__) and any(each.name in path.read_text() for each in (*gauges(), *counted()))
        ]
        assert elsewhere == []

    def test_each_says_what_it_is(self) -> None:
        assert all(text.endswith(".") for text in [gauge.text for gauge in gauges()] + [c.documentation for c in counted()])

    def test_each_of_messages_stands_in_the_documents(self) -> None:
        words = (ROOT / "docs" / "outbox.md").read_text()
        assert [each.name for each in counted() if each.name not in words] == []


class TestAlerts:
    def test_every_rule_asks_for_a_metric_that_there_is(self) -> None:
        rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
        used = {name for rule in rules for name in re.findall(r"lastro_\w+", rule["expr"])}
        assert used
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        told = {f"{each.name}{ending}" for each in counted() for ending in endings[each.type]}
        assert used <= {gauge.name for gauge in gauges()} | told

    def test_the_example_scrapes_where_we_serve(self) -> None:
        jobs = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
        assert jobs[0]["metrics_path"] == reverse("metrics")
