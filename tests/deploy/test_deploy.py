"""The files of deploy/: whether they are what their tools take, and whether they speak of what there is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from perdure.cli.main import app as command_line

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def documents() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.name}: {document['kind']} {document['metadata']['name']}", document)
        for path in KUBERNETES
        for document in yaml.safe_load_all(path.read_text())
    ]


def containers() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    return [
        (name, document["spec"]["template"]["spec"], container)
        for name, document in documents()
        if document["kind"] == "Deployment"
        for container in document["spec"]["template"]["spec"]["containers"]
    ]


def options(words: list[str]) -> None:
    """Every option of a `perdure` command is one that it has."""
    command = get_command(command_line).commands[words[0]]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known, words


def test_compose_is_what_compose_takes():
    said = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"),
            str(DEPLOY / "compose.yaml"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert said.returncode == 0, said.stdout + said.stderr


def test_compose_speaks_of_what_there_is():
    read = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services, volumes = read["services"], read["volumes"]
    stages = re.findall(r"^FROM .* AS (\w+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= services.keys(), name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in volumes, volume
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is open to all the world"
        if "build" in service:
            assert service["build"]["target"] in stages
        assert ":latest" not in service["image"]
    assert services["worker"]["deploy"]["replicas"] == 2
    options(services["worker-fast"]["command"])
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    names = {
        each
        for scrape in scraped["scrape_configs"]
        for found in scrape.get("dns_sd_configs", ())
        for each in found["names"]
    }
    names |= {
        target.partition(":")[0]
        for scrape in scraped["scrape_configs"]
        for found in scrape.get("static_configs", ())
        for target in found["targets"]
    }
    assert names <= services.keys()
    assert [path for path in scraped["rule_files"] if not (DEPLOY / "prometheus" / path).exists()] == []


def test_the_script_that_makes_keys_makes_each_once(tmp_path):
    """With the `$$` of compose for `$`, and this machine's shell."""
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["keys"]
    script = service["command"][0].replace("$$", "$").replace("/keys", str(tmp_path))
    command = Path(sys.executable).parent
    for _ in range(2):
        subprocess.run(
            [*service["entrypoint"], script],
            check=True,
            timeout=50,
            env={"PATH": f"{command}:/usr/bin:/bin", "PERDURE_STORE": f"sqlite:///{tmp_path}/a.db"},
        )
        made = {name: (tmp_path / name).read_text() for name in ("admin", "prometheus")}
        assert all(re.fullmatch(r"pdk_\w+\n?", key) for key in made.values()), made
    listed = subprocess.run(
        [str(command / "perdure"), "keys", "list", "--json", "--store", f"sqlite:///{tmp_path}/a.db"],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert sorted(key["role"] for key in json.loads(listed.stdout)) == ["admin", "metrics"]


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_manifests_are_what_kubernetes_takes(path):
    said = subprocess.run(
        [str(Path(sys.executable).parent / "kubernetes-validate"), "--strict", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert said.returncode == 0, said.stdout + said.stderr


def test_manifests_fit_together():
    found = [document for _, document in documents()]
    pods = {
        document["metadata"]["name"]: document["spec"]["template"]["metadata"]["labels"]
        for document in found
        if document["kind"] == "Deployment"
    }
    for document in found:
        spec = document.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector", {}))
        labels = selector.get("matchLabels", selector)
        if labels:
            chosen = [name for name, pod in pods.items() if labels.items() <= pod.items()]
            assert len(chosen) == 1, document["metadata"]["name"]
        if document["kind"] == "HorizontalPodAutoscaler":
            assert spec["scaleTargetRef"]["name"] in pods
    kinds = {document["kind"] for document in found}
    assert kinds >= {
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "Secret",
    }


@pytest.mark.parametrize(
    ("name", "pod", "container"), containers(), ids=lambda each: each if isinstance(each, str) else ""
)
def test_containers_can_do_little(name, pod, container):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]
    assert container["livenessProbe"]
    options(container["args"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container.get(probe, container["livenessProbe"])["httpGet"]["port"] in ports


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    """The linter, and the one of shells that it has in it, with every finding as a failure."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "hadolint"), "--no-color", "--failure-threshold", "style", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def test_the_linter_finds_nothing_in_the_dockerfile():
    said = hadolint(DEPLOY / "Dockerfile")
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ("FROM python\n", "DL3006"),
        ("FROM python:3.13\nADD https://localhost/a /a\nUSER root\n", "DL3002"),
        ("FROM python:3.13\nCMD python -c 1\n", "DL3025"),
        ('FROM python:3.13\nRUN cd /opt && echo "$(cat a)" > $HOME/b\n', "SC2086"),
    ],
    ids=["unpinned", "root", "shell", "quotes"],
)
def test_the_linter_finds_what_is_wrong(tmp_path, wrong, rule):
    path = tmp_path / "Dockerfile"
    path.write_text(wrong)
    said = hadolint(path)
    assert said.returncode == 1
    assert rule in said.stdout


def test_the_image_is_built_of_what_there_is_and_runs_as_nobody():
    found = instructions()
    known = {
        "ARG",
        "FROM",
        "ENV",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    assert {name for name, _ in found} <= known
    for name, rest in found:
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (DEPLOY.parent / source).exists(), source
        if name in {"ENTRYPOINT", "CMD"}:
            assert isinstance(json.loads(rest), list), "signals have to reach the process itself"
        if name == "ARG":
            assert re.fullmatch(r"PYTHON=\d+\.\d+-slim-\w+", rest), "the base has a version, and a system"
        if name == "FROM":
            assert rest.split()[0] in {"python:${PYTHON}", "perdure"}
    assert "HEALTHCHECK" in dict(found)
    users = [rest for name, rest in found if name == "USER"]
    assert users == ["10001:10001"]
    assert [json.loads(rest)[0] for name, rest in found if name == "CMD"] == ["server", "worker"]
    for name, rest in found:
        if name == "CMD":
            options(json.loads(rest))


def test_the_builder_is_sent_what_it_copies():
    sent = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == sent


def test_the_image_installs_extras_that_there_are(tmp_path):
    """The constraints are made by the image's own command, and pip reads them."""
    extras = re.search(r'"\.\[([a-z,]+)\]"', (DEPLOY / "Dockerfile").read_text())
    assert extras is not None
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    assert [extra for extra in extras[1].split(",") if not re.search(rf"^{extra} = \[", project, re.MULTILINE)] == []
    command = next(rest for name, rest in instructions() if name == "RUN" and "sed" in rest).partition(">")[0]
    lines = subprocess.run(shlex.split(command), cwd=DEPLOY.parent, capture_output=True, text=True, check=True).stdout
    pinned = [line for line in lines.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(pinned) > 50
    assert all(re.match(r"^[A-Za-z0-9._-]+(\[[a-z,]+\])?==\S+( ;.*)?$", line.rstrip()) for line in pinned), pinned
