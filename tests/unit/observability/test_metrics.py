"""Every metric has one name, in one file, and the names are Prometheus's kind of names."""

import re
from pathlib import Path

import yaml
from django.urls import reverse

from apps.observability import metrics
from apps.observability.metrics import Gauge

ROOT = Path(__file__).resolve().parents[3]
APPS, DEPLOY = ROOT / "apps", ROOT / "deploy" / "prometheus"


def gauges() -> list[Gauge]:
    return [value for value in vars(metrics).values() if isinstance(value, Gauge)]


class TestNames:
    def test_each_is_ours_and_used_once(self) -> None:
        names = [gauge.name for gauge in gauges()]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"lastro(_[a-z]+)+", name) for name in names)

    def test_no_name_stands_anywhere_else_in_the_apps(self) -> None:
        elsewhere = [
            path
            for path in APPS.rglob("*.py")
            if path != Path(metrics.__file__) and any(gauge.name in path.read_text() for gauge in gauges())
        ]
        assert elsewhere == []

    def test_each_says_what_it_is(self) -> None:
        assert all(gauge.text.endswith(".") for gauge in gauges())


class TestAlerts:
    def test_every_rule_asks_for_a_metric_that_there_is(self) -> None:
        rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
        used = {name for rule in rules for name in re.findall(r"lastro_\w+", rule["expr"])}
        assert used
        assert used <= {gauge.name for gauge in gauges()}

    def test_the_example_scrapes_where_we_serve(self) -> None:
        jobs = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
        assert jobs[0]["metrics_path"] == reverse("metrics")
