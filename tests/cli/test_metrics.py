"""`perdure worker --metrics`, and what else its environment has it do."""

from __future__ import annotations

import platform
import signal
import socket
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.working import run, wait_for


def free_ports(count: int) -> int:
    """The first of some ports in a row that are free."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
        try:
            for number in range(count):
                with socket.socket() as each:
                    each.bind(("127.0.0.1", port + number))
        except (OSError, OverflowError):
            continue
        return port


def samples(port: int) -> dict[str, float]:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


def test_metrics_are_served(shell, worker, url):
    port = free_ports(1)
    process = worker("--metrics", str(port))
    process.says("working")
    shell("start", "broken", "--id", "l")
    wait_for(lambda: run(shell, "l")["status"] == "errored")
    found = samples(port)
    assert found["perdure_runs_begun_total"] == 1
    assert found["perdure_concurrency"] == 500
    process.signal(signal.SIGTERM)
    assert process.ends() == 0


def test_each_of_several_processes_has_a_port(worker):
    port = free_ports(2)
    process = worker("--processes", "2", PERDURE_METRICS_PORT=str(port))
    process.says("working", times=2)
    assert samples(port)["perdure_concurrency"] == samples(port + 1)["perdure_concurrency"] == 500
    process.signal(signal.SIGTERM)
    assert process.ends() == 0


def test_a_port_that_is_taken_ends_it(worker):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = worker("--metrics", str(taken.getsockname()[1]))
        assert process.ends() == 2
    assert "nobody can listen at 127.0.0.1" in process.log.read_text()


@pytest.mark.parametrize("place", ["", "a", "0", "65536", "host:", ":x", "-1"])
def test_what_is_no_place_to_listen_at(shell, place):
    said = shell("worker", "shop:app", f"--metrics={place}")
    assert said.code == 2
    assert "--metrics" in said.err


@pytest.mark.parametrize(
    ("place", "more", "paths"),
    [
        ("", {}, {"/v1/traces", "/v1/metrics"}),
        ("", {"OTEL_METRICS_EXPORTER": "none"}, {"/v1/traces"}),
        ("TRACES_", {}, {"/v1/traces"}),
        (
            "TRACES_",
            {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=one", "INSTANCE": "one"},
            {"/v1/traces"},
        ),
        ("METRICS_", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {"/v1/metrics"}),
    ],
)
def test_what_the_environment_says_is_exported(shell, worker, place, more, paths):
    names: list[str] = []
    asked_for: set[str] = set()
    services: dict[str, str] = {}

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            asked_for.add(self.path)
            if self.path == "/v1/traces":
                asked = ExportTraceServiceRequest.FromString(body)
                services.update(
                    (each.key, each.value.string_value) for r in asked.resource_spans for each in r.resource.attributes
                )
                names.extend(s.name for r in asked.resource_spans for scope in r.scope_spans for s in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}" + (f"/v1/{place.lower()[:-1]}" if place else "")
    process = worker(**{f"OTEL_EXPORTER_OTLP_{place}ENDPOINT": url}, **more)
    process.says("working")
    shell("start", "broken", "--id", "l")
    wait_for(lambda: run(shell, "l")["status"] == "errored")
    process.signal(signal.SIGTERM)
    assert process.ends() == 0
    server.shutdown()
    server.server_close()
    assert asked_for == paths
    if "/v1/traces" in paths:
        assert services["service.name"] == more.get("OTEL_SERVICE_NAME", "perdure-worker")
        assert services["service.instance.id"] == more.get("INSTANCE", f"{platform.node()}:{process.process.pid}")
    assert sorted(names) == (["broken", "refuse"] if "/v1/traces" in paths else [])
    assert ("http/protobuf" in process.log.read_text()) == ("OTEL_EXPORTER_OTLP_PROTOCOL" in more)
