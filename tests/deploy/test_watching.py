"""The dashboard and the alerts, beside what a worker and a server really tell Prometheus."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from perdure import Perdure, Retry
from perdure.cli.main import app as command_line
from perdure.server import sampling
from perdure.telemetry import Prometheus
from tests.server.conftest import memory, serve

__all__ = ["serve"]

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds itself."""


class Told:
    """What is told: by the name of each metric, its labels, and by label the values that were seen."""

    def __init__(self, *texts: str) -> None:
        self.labels: dict[str, set[str]] = {}
        self.values: dict[str, set[str]] = defaultdict(set)
        for text in texts:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if not sample.name.endswith("_created"):
                        self.labels.setdefault(sample.name, set()).update(sample.labels)
                    for name, value in sample.labels.items():
                        self.values[name].add(value)

    def wrong_with(self, expression: str) -> list[str]:
        """What an expression of PromQL asks for that is not there."""
        wrong = []
        for name, selector in re.findall(r"\b((?:perdure|process)_\w+)(\{[^}]*\})?", without_texts(expression)):
            if name not in self.labels:
                wrong.append(name)
            elif unknown := set(re.findall(r"(\w+)(?==|!)", selector)) - self.labels[name] - SCRAPED:
                wrong.append(f"{name}{unknown}")
        known = set().union(SCRAPED, *(self.labels.get(name, ()) for name in metrics_in(expression)))
        wrong += sorted(grouped_by(expression) - known)
        pairs = re.findall(r'(\w+)="([^"$]*)"', expression)
        return wrong + [f"{label}={value}" for label, value in pairs if value not in self.values[label]]


def without_texts(expression: str) -> str:
    return re.sub(r'"[^"]*"', '""', expression)


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:perdure|process)_\w+", without_texts(expression)))


def grouped_by(expression: str) -> set[str]:
    """The labels of all groups in it; `le` is what histograms are made of."""
    return {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}


def left(expression: str) -> set[str]:
    """The labels that a result has, where the expression says so itself."""
    groups = re.findall(r"by \(([^)]*)\)", expression)
    return {label.strip() for label in groups[0].split(",")} if groups else set()


def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana" / "dashboards" / "perdure.json").read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def targets() -> list[tuple[str, str]]:
    return [(target["expr"], target.get("legendFormat", "")) for panel in panels() for target in panel["targets"]]


def rules() -> list[dict[str, Any]]:
    read = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    return [rule for group in read["groups"] for rule in group["rules"]]


@pytest.fixture
async def told(serve, monkeypatch) -> Told:
    monkeypatch.setattr(sampling, "EVERY", 0.01)
    prometheus = Prometheus()
    app = Perdure(memory(), telemetry=[prometheus])
    tries: list[int] = []

    @app.step(retry=Retry(attempts=2, delay=0.01))
    async def work() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError

    @app.workflow(name="good")
    async def good() -> None:
        await work()

    @app.workflow(name="bad")
    async def bad() -> None:
        raise ValueError("as the test wishes")

    served = await serve(app)
    await served.http.get("/metrics")  # what workers end is counted from the first look on
    await (await app.start(good)).result(timeout=20)
    run = await app.start(bad)
    while not (await run.get()).status.is_finished:
        await asyncio.sleep(0.01)
    await app.start("nothing", anyway=True)
    await served.http.get("/nowhere")
    await app.worker.reporting.tell()
    async with asyncio.timeout(20):
        while "perdure_queue_ended_total{" not in (answer := await served.http.get("/metrics")).text:
            await asyncio.sleep(0.01)
    assert answer.status_code == 200
    return Told(answer.text, generate_latest(prometheus.registry).decode())


async def test_the_dashboard_asks_for_what_there_is(told):
    assert len(targets()) > 20
    for expression, legend in targets():
        assert metrics_in(expression), expression
        assert told.wrong_with(expression) == [], expression
        assert expression.count("(") == expression.count(")")
        assert expression.count("{") == expression.count("}")
        named = set(re.findall(r"\{\{(\w+)\}\}", legend))
        assert named <= (left(expression) or SCRAPED), f"{legend} says nothing of {expression}"


async def test_the_dashboard_shows_all_there_is(told):
    shown = set().union(*(metrics_in(expression) for expression, _ in targets()))
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in told.labels if name.startswith("perdure_")}
    assert ours - {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} == set()


async def test_the_choice_of_namespaces_is_made_of_what_there_is(told):
    for variable in dashboard()["templating"]["list"]:
        name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
        assert label in told.labels[name]
        assert variable["query"]["query"] == variable["definition"]


async def test_alerts_ask_for_what_there_is(told):
    assert len(rules()) >= 8
    for rule in rules():
        expression = rule["expr"]
        assert metrics_in(expression), rule["alert"]
        assert told.wrong_with(expression) == [], rule["alert"]
        carried = left(expression) or set().union(SCRAPED, *(told.labels[name] for name in metrics_in(expression)))
        assert set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) <= carried, rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}


async def test_what_the_stores_hold_is_counted_once_however_many_servers_tell_of_it(told):
    counted = {name for name, labels in told.labels.items() if "namespace" in labels} - {"perdure_store_up"}
    for expression in [each for each, _ in targets()] + [rule["expr"] for rule in rules()]:
        for name in metrics_in(expression) & counted:
            if not re.search(r" (==|>) 0 and ", expression):  # which asks whether there is any
                assert re.search(rf"max(?: by \([a-z, ]*\))? ?\((?:rate\()?{name}\b", expression), expression


def test_panels_do_not_lie_on_each_other():
    every = dashboard()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: dict[tuple[int, int], str] = {}
    for panel in every:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


def test_commands_that_are_named_are_there():
    texts = " ".join(json.dumps(rule["annotations"]) for rule in rules())
    known = get_command(command_line).commands
    for words in re.findall(r"`perdure ([a-z ]+)`", texts):
        first, *rest = words.split()
        assert first in known
        assert not rest or rest[0] in known[first].commands
