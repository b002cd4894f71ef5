"""The house's rules for dashboards, alerts and their runbook; nothing here needs Prometheus."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from ml_service.common.settings import PROJECT
from ml_service.utils.telemetry import STORE_FIGURES
from tests.monitoring.files import (
    DASHBOARDS,
    GRAFANA,
    PROMETHEUS,
    alerts,
    load,
    metrics_in,
    panel_queries,
    panels,
    recorded,
    rules,
)

ALERTS = """TargetDown HighErrorRatio TimeToFirstTokenHigh QueueSaturated EngineStuck NoModelDeployed GenerationSkew
    TrainingHeartbeatStale RetrainFailed DiskLow DatabaseDown""".split()
OF_PROMETHEUS = {"up", "ALERTS", "scrape_duration_seconds", "scrape_samples_scraped", "prometheus_tsdb_head_series"}
"""What Prometheus knows without being told."""
RUNBOOK = (PROJECT / "docs" / "runbook.md").read_text(encoding="utf-8")
SOURCE = "prometheus"
ALL_PANELS = [
    pytest.param(panel, id=f"{dashboard.stem}: {panel['title']}")
    for dashboard in DASHBOARDS
    for panel in panels(dashboard)
]
ALL_ALERTS = [pytest.param(rule, id=name) for name, rule in alerts().items()]
UNITS = {"reqps", "ops", "percentunit", "s", "short", "none", "bytes", "Bps", "dateTimeFromNow"}


@pytest.fixture(scope="module")
def known(client: TestClient) -> set[str]:
    """The names of all series that the app can have: its instruments, with and without values yet."""
    client.post("/forward", json={"text": "def value(", "max_new_tokens": 2}).raise_for_status()
    names = set(OF_PROMETHEUS) | recorded()
    for family in text_string_to_metric_families(client.get("/metrics").text):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
        names |= {f"{family.name}{suffix}" for suffix in suffixes.get(family.type, ("",))}
    return names


def test_there_are_the_four_dashboards() -> None:
    assert [load(path)["title"] for path in DASHBOARDS] == ["Data", "Learning", "Serving", "System"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_found_linked_and_filtered(dashboard: Path) -> None:
    board = load(dashboard)
    assert board["uid"] == f"ml-service-{dashboard.stem}"
    assert board["schemaVersion"] >= 41
    assert "__inputs" not in board  # they are never resolved in provisioned files
    assert "${DS_" not in dashboard.read_text()
    assert board["tags"] == ["ml_service"]
    among_them, page = board["links"]
    assert (among_them["type"], among_them["tags"]) == ("dashboards", board["tags"])
    assert page["url"] == "${page}"
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables.keys() == {"instance", "page"}
    assert variables["instance"]["allValue"] == ".*"
    assert variables["instance"]["datasource"]["uid"] == SOURCE
    (deployments,) = [one for one in board["annotations"]["list"] if one["name"] == "Deployments"]
    assert deployments["enable"]
    assert deployments["datasource"]["uid"] == SOURCE
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert not [title for title, count in Counter(panel["title"] for panel in panels(dashboard)).items() if count > 2]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_lie_in_the_grid_side_by_side(dashboard: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    places = [(panel["title"], panel["gridPos"]) for panel in load(dashboard)["panels"]]
    for title, place in places:
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
        columns, lines = (range(place[start], place[start] + place[size]) for start, size in ("xw", "yh"))
        for cell in itertools.product(columns, lines):
            assert cell not in taken, f"{title} lies on {taken[cell]}"
            taken[cell] = title
    tops = [place["y"] for _, place in places]
    assert tops == sorted(tops)
    height = max(place["y"] + place["h"] for _, place in places)
    assert {y for _, y in taken} == set(range(height))


@pytest.mark.parametrize("panel", ALL_PANELS)
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["title"]
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in UNITS
    text, _, metric = panel["description"].rpartition("; ")
    assert text
    asked = set().union(*(metrics_in(target["expr"]) for target in panel["targets"]))
    assert {metric, f"{metric}_bucket", f"{metric}_sum"} & asked, f"{metric} is not among {sorted(asked)}"
    assert panel["datasource"]["uid"] == SOURCE
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEF"[: len(panel["targets"])])


@pytest.mark.parametrize("panel", ALL_PANELS)
def test_a_panel_without_traffic_says_so_and_never_nan(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["noValue"]
    assert {"match": "nan", "result": {"index": 0, "text": "no traffic"}} in [
        mapping["options"] for mapping in defaults["mappings"]
    ]
    for target in panel["targets"]:
        expr = target["expr"]
        assert expr.count("histogram_quantile(") == len(re.findall(r"\)\) >= 0$", expr))
        for divisor in re.findall(r" / (.*)", expr):
            assert divisor.endswith("> 0)") or re.match(r"ml_service_store_size_bytes|process_max_fds", divisor)


@pytest.mark.parametrize("panel", ALL_PANELS)
def test_a_rate_is_taken_over_grafanas_interval(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        ranges = set(re.findall(r"\[([^\]]*)\]", target["expr"]))
        assert ranges <= {"$__rate_interval"} or (panel["type"] == "stat" and ranges <= {"1h", "$__range"})
        assert "irate(" not in target["expr"]


@pytest.mark.parametrize("panel", ALL_PANELS)
def test_what_every_replica_reports_of_the_store_is_not_added_up(panel: dict[str, Any]) -> None:
    figures = {f"ml_service_{name}" for name in STORE_FIGURES} | {"ml_service_experiments_total"}
    for target in panel["targets"]:
        if metrics_in(target["expr"]) & (figures | {"ml_service_store_free_bytes", "ml_service_store_size_bytes"}):
            assert re.match(r"(max|min)\b", target["expr"])
            assert not re.search(r"\b(sum|avg|count)\b", target["expr"])


def test_a_variable_that_a_query_names_is_there() -> None:
    names = {name for query in panel_queries() for name in re.findall(r"\$\{?(\w+)", query.expr)}
    assert names == {"instance", "__rate_interval", "__range"}


def test_every_metric_that_a_panel_or_rule_names_is_in_the_apps_metrics(known: set[str]) -> None:
    asked = [(query.place, query.expr) for query in panel_queries()]
    asked += [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    assert len(asked) > 80
    for place, expr in asked:
        assert metrics_in(expr), place
        assert metrics_in(expr) <= known, place


def test_every_metric_of_ours_is_on_a_dashboard(known: set[str]) -> None:
    shown = {_family(name) for query in panel_queries() for name in metrics_in(query.expr)}
    assert {_family(name) for name in known if name.startswith("ml_service_")} <= shown


def _family(name: str) -> str:
    return re.sub("_(bucket|sum|count)$", "", name)


def test_there_is_an_alert_for_each_of_these() -> None:
    assert set(ALERTS) <= alerts().keys()


@pytest.mark.parametrize("rule", ALL_ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook"}
    name = rule["alert"]
    assert notes["runbook"].endswith(f"docs/runbook.md#{name.lower()}")
    assert f"\n## {name}\n*{rule['labels']['severity']}.*" in RUNBOOK
    assert "for" in rule


def test_the_runbook_has_no_section_too_many() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == list(alerts())


def test_each_alert_has_been_seen_to_fire_and_to_stay_silent() -> None:
    tests = [
        test
        for path in (PROMETHEUS / "tests").glob("*.yml")
        for test in yaml.safe_load(path.read_text())["tests"]
        if "alert_rule_test" in test
    ]
    for name in alerts():
        expected = [
            bool(case["exp_alerts"]) for test in tests for case in test["alert_rule_test"] if case["alertname"] == name
        ]
        assert set(expected) == {True, False}, name


def test_grafana_finds_prometheus_by_the_uid_that_panels_name_and_knows_how_often_it_asks() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    scraping = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert (source["uid"], source["type"]) == (SOURCE, "prometheus")
    assert source["jsonData"]["timeInterval"] == scraping["global"]["scrape_interval"]
    named = set(re.findall(r'"uid": "([^"]*)"', "".join(path.read_text() for path in DASHBOARDS)))
    assert named == {SOURCE, "-- Grafana --", *(f"ml-service-{path.stem}" for path in DASHBOARDS)}


def test_an_expressions_metrics_are_told_from_its_functions_and_labels() -> None:
    expr = 'max by (state) (increase(a_total{x="b", y=~"c|d"}[5m])) / (e > 1e6) or on (job) sum(f offset 5m) >= 0'
    assert metrics_in(expr) == {"a_total", "e", "f"}
