"""deploy/kubernetes, read closely: every command, path, port, variable and name in it is one that there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_compose import COMPOSED, USAGE_ERROR, arguments_of, check_program, resolve_command

from caselog.workers.access.callers import NEEDS, Need
from caselog.workers.settings import Settings
from caselog.workers.web.app import make_app
from caselog.workers.web.door import handlers_of

FOLDER = Path(__file__).parents[1] / "deploy" / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS: list[dict[str, Any]] = [
    found for name in KUSTOMIZATION["resources"] for found in yaml.safe_load_all((FOLDER / name).read_text())
]
WORKLOADS = {one["metadata"]["name"]: one for one in OBJECTS if one["kind"] in {"Deployment", "Job"}}
ROLES = ("recorder", "tasks", "status")
PORT = Settings.model_fields["http_port"].default


def one(kind: str) -> dict[str, Any]:
    (found,) = [candidate for candidate in OBJECTS if candidate["kind"] == kind]
    return found


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def container_of(name: str) -> dict[str, Any]:
    (container,) = pod_of(WORKLOADS[name])["containers"]
    assert isinstance(container, dict)
    return container


def probes() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in WORKLOADS:
        for kind, probe in container_of(name).items():
            if kind.endswith("Probe"):
                yield name, probe


def test_every_file_is_in_the_kustomization_and_every_object_has_a_name_of_its_own() -> None:
    assert {*KUSTOMIZATION["resources"], "kustomization.yaml"} == {path.name for path in FOLDER.glob("*.yaml")}
    names = [(found["kind"], found["metadata"]["name"]) for found in OBJECTS]
    assert len(set(names)) == len(names)
    assert set(WORKLOADS) == {"caselog-migrate", *(f"caselog-{role}" for role in ROLES)}
    versions = {"Deployment": "apps/v1", "Job": "batch/v1", "Service": "v1", "ConfigMap": "v1"}
    assert all(versions.get(found["kind"], "keda.sh/v1alpha1") == found["apiVersion"] for found in OBJECTS)
    # What does not belong there, a server refuses.
    assert all({"name"} <= set(found["metadata"]) <= {"name", "labels", "annotations"} for found in OBJECTS)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_command_is_one_that_the_command_line_has_and_the_one_of_compose(name: str) -> None:
    container = container_of(name)
    assert "command" not in container  # the image's entry point is caselog
    assert arguments_of("ENTRYPOINT") == ['["caselog"]']
    assert container["args"] == COMPOSED["services"][name.removeprefix("caselog-")]["command"]
    resolve_command(container["args"])
    with pytest.raises(USAGE_ERROR):  # the test does say no
        resolve_command([*container["args"], "--no-such-option"])


def test_the_workers_are_asked_as_in_compose_and_for_their_own_role() -> None:
    for role in ("recorder", "tasks"):
        container = container_of(f"caselog-{role}")
        for probe in (container["readinessProbe"], container["livenessProbe"]):
            assert ["CMD", *probe["exec"]["command"]] == COMPOSED["services"][role]["healthcheck"]["test"]
            check_program(probe["exec"]["command"])


def test_a_worker_that_waits_for_the_database_is_not_restarted_for_minutes() -> None:
    """Its heartbeat grows old in 30 seconds, and a restart mends nothing."""
    for role in ("recorder", "tasks"):
        probe = container_of(f"caselog-{role}")["livenessProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 600


def test_the_status_worker_is_asked_for_pages_that_it_has_at_the_port_where_it_listens() -> None:
    assert "8080" in str(PORT)
    container = container_of("caselog-status")
    (port,) = container["ports"]
    assert port["containerPort"] == PORT
    assert arguments_of("EXPOSE") == [str(PORT)]
    pages = {route.path for route in make_app(Settings(), *[None] * (make_app.__code__.co_argcount - 1)).routes}  # type: ignore[arg-type]  # no page is asked here
    asked = {kind: container[kind]["httpGet"] for kind in ("livenessProbe", "readinessProbe")}
    assert {kind: page["path"] for kind, page in asked.items()} == {
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert all(page["path"] in pages and page["port"] == port["name"] for page in asked.values())
    service = one("Service")
    (exposed,) = service["spec"]["ports"]
    assert (exposed["port"], exposed["targetPort"]) == (PORT, port["name"])
    assert (
        service["spec"]["selector"].items()
        <= WORKLOADS["caselog-status"]["spec"]["template"]["metadata"]["labels"].items()
    )
    notes = service["metadata"]["annotations"]
    assert notes["prometheus.io/port"] == str(PORT)
    assert notes["prometheus.io/path"] in pages


def test_every_probe_ends_before_the_next_one() -> None:
    for name, probe in probes():
        assert 0 < probe["timeoutSeconds"] <= probe["periodSeconds"], name
        # /readyz takes 3 seconds where a server hangs.
        assert probe["timeoutSeconds"] > 3


def test_the_settings_come_from_the_config_map_and_the_secret_and_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    config = one("ConfigMap")
    for name in WORKLOADS:
        assert container_of(name)["envFrom"] == [
            {"configMapRef": {"name": config["metadata"]["name"]}},
            {"secretRef": {"name": "caselog"}},
        ]
    assert set(config["data"]) <= {f"CASELOG_{field.upper()}" for field in Settings.model_fields}
    for variable, given in config["data"].items():
        assert not re.search(r"URL|TOKEN|PASSWORD|SECRET", variable)
        monkeypatch.setenv(variable, given)
    assert Settings().time_zone == config["data"]["CASELOG_TIME_ZONE"]


def test_nobody_reads_who_was_not_named_and_without_that_the_pod_does_not_start() -> None:
    """A key that the secret does not have is a pod that waits for it; probes and Prometheus need no token."""
    assert one("ConfigMap")["data"]["CASELOG_READING"] == "token"
    wanted = {"secretKeyRef": {"name": "caselog", "key": "CASELOG_API_TOKENS"}}
    assert container_of("caselog-status")["env"] == [{"name": "CASELOG_API_TOKENS", "valueFrom": wanted}]
    app = make_app(Settings(), *[None] * (make_app.__code__.co_argcount - 1))  # type: ignore[arg-type]  # likewise
    needs = {route.path: {handler.opt[NEEDS] for handler in handlers_of(route)} for route in app.routes}
    asked = [container_of("caselog-status")[kind]["httpGet"]["path"] for kind in ("livenessProbe", "readinessProbe")]
    for path in (*asked, one("Service")["metadata"]["annotations"]["prometheus.io/path"]):
        assert needs[path] == {Need.NOTHING}


def test_every_pod_is_as_confined_as_compose_runs_it_and_is_given_time_to_stop() -> None:
    (user,) = arguments_of("USER")
    for name, workload in WORKLOADS.items():
        pod, container = pod_of(workload), container_of(name)
        assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == user
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == COMPOSED["services"]["recorder"]["tmpfs"]
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert container["resources"]["limits"]["memory"]
        if workload["kind"] == "Deployment":
            assert pod["terminationGracePeriodSeconds"] > 10  # docs/design.md "Promises"


def test_every_selector_finds_the_pods_of_its_own_deployment() -> None:
    for workload in WORKLOADS.values():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        if workload["kind"] == "Deployment":
            assert workload["spec"]["selector"]["matchLabels"] == labels
        assert labels["app.kubernetes.io/component"] == workload["metadata"]["name"].removeprefix("caselog-")


def test_the_image_is_the_one_that_the_kustomization_names() -> None:
    (image,) = KUSTOMIZATION["images"]
    assert {container_of(name)["image"] for name in WORKLOADS} == {image["name"]}
    assert image["newTag"]


def test_keda_scales_the_recorders_alone_and_nobody_else_sets_their_number() -> None:
    scaled = one("ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == "caselog-recorder"
    assert "replicas" not in WORKLOADS["caselog-recorder"]["spec"]
    assert 1 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"]
    assert WORKLOADS["caselog-status"]["spec"]["replicas"] == 1
    for trigger in scaled["triggers"]:
        assert trigger["type"] == "prometheus"
        assert {"serverAddress", "query", "threshold"} <= trigger["metadata"].keys()
        assert all(isinstance(given, str) for given in trigger["metadata"].values())  # KEDA takes no numbers
    assert len({trigger["metadata"]["query"] for trigger in scaled["triggers"]}) == 2
