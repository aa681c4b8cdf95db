"""The manifests: each has the form of its kind, together they are whole, and no pod may do more than it needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pgcachewatch_config.settings import Settings
from pgcachewatch_daemon.core.credentials import Roster
from tests.tidy.tree import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.37")
FOLDERS = sorted(path.parent for path in KUBERNETES.glob("*/kustomization.yaml"))
APPLIED = ("example", "sidecar")  # what somebody runs `kubectl apply -k` on
NOT_KUBERNETES_OWN = {"Kustomization", "Component", "ServiceMonitor"}
Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def manifests() -> list[Path]:
    return sorted(KUBERNETES.glob("*/*.yaml"))


def every(kind: str) -> Iterator[Document]:
    for path in manifests():
        yield from (each for each in documents(path) if each["kind"] == kind)


def containers() -> list[Document]:
    pods = [each["spec"]["template"]["spec"] for each in every("Deployment")]
    return [each for pod in pods for each in (*pod.get("initContainers", ()), *pod["containers"])]


def relays() -> list[Document]:
    return [each for each in containers() if each["name"] == "relay"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", manifests(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_document_has_the_form_of_its_kind(path: Path, version: str) -> None:
    for document in documents(path):
        if document["kind"] not in NOT_KUBERNETES_OWN:
            kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelled_field_would_be_found() -> None:
    (service,) = every("Service")

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**service, "spec": {**service["spec"], "portz": []}}, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_a_kustomization_names_is_there_and_what_is_there_is_named(folder: Path) -> None:
    (kustomization,) = documents(folder / "kustomization.yaml")
    generators = [*kustomization.get("configMapGenerator", ()), *kustomization.get("secretGenerator", ())]
    named = [*kustomization["resources"], *(file for each in generators for file in each["files"])]

    assert [path for path in (*named, *kustomization.get("components", ())) if not (folder / path).exists()] == []
    assert {path.name for path in folder.iterdir()} - {"kustomization.yaml"} <= set(named)


@pytest.mark.parametrize("name", APPLIED)
def test_kubectl_builds_it(name: str) -> None:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed; it builds without a cluster")

    answer = subprocess.run([program, "kustomize", KUBERNETES / name], capture_output=True, text=True, check=False)

    assert answer.returncode == 0, answer.stderr
    for document in yaml.safe_load_all(answer.stdout):
        if document["kind"] not in NOT_KUBERNETES_OWN:
            kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def test_every_pod_keeps_to_the_restricted_profile() -> None:
    pods = [each["spec"]["template"]["spec"] for each in every("Deployment")]

    assert len(pods) == 2
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(set(volume) & {"configMap", "secret", "emptyDir"} for volume in pod["volumes"])
    for container in containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


def test_pods_run_as_the_user_of_the_image() -> None:
    user = re.search(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert user
    assert {each["spec"]["template"]["spec"]["securityContext"]["runAsUser"] for each in every("Deployment")} == {
        int(user[1])
    }


def test_pod_is_given_longer_than_the_relay_takes_to_go() -> None:
    for deployment in every("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        waits = [each["lifecycle"]["preStop"]["exec"]["command"] for each in pod["containers"] if "lifecycle" in each]
        before_s = sum(float(command[-1]) for command in waits)

        grace_s = Settings.model_fields["drain_grace_s"].default
        assert pod["terminationGracePeriodSeconds"] >= 2 * (before_s + grace_s)


def test_update_never_leaves_fewer_relays_than_wanted() -> None:
    (deployment,) = (each for each in every("Deployment") if each["metadata"]["name"] == "pgcachewatch")
    (budget,) = every("PodDisruptionBudget")

    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert budget["spec"]["maxUnavailable"] < deployment["spec"]["replicas"]


def test_selectors_find_the_relay_and_nobody_else() -> None:
    (deployment,) = (each for each in every("Deployment") if each["metadata"]["name"] == "pgcachewatch")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (service,), (budget,), (policy,), (monitor,) = map(
        list, map(every, ("Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor"))
    )

    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]


def test_ports_have_one_name_everywhere() -> None:
    (service,), (monitor,), (policy,) = map(list, map(every, ("Service", "ServiceMonitor", "NetworkPolicy")))
    (port,) = service["spec"]["ports"]

    assert monitor["spec"]["endpoints"][0]["port"] == port["name"]
    assert policy["spec"]["ingress"][0]["ports"] == [{"port": port["targetPort"]}]
    assert [each["ports"] for each in relays() if "ports" in each] == [
        [{"name": port["targetPort"], "containerPort": port["port"]}]
    ]


def test_probe_of_life_does_not_ask_for_the_database() -> None:
    """A relay that is ended because PostgreSQL is away would lose its clients for nothing."""
    for relay in relays():
        for probe in ("startupProbe", "livenessProbe"):
            asked = relay[probe].get("httpGet", {}).get("path") or relay[probe]["exec"]["command"][-1]
            assert asked == "/livez"


def test_every_variable_and_option_that_is_set_exists() -> None:
    options = set(Settings.model_fields)
    for relay in relays():
        for variable in relay["env"]:
            name = variable["name"].removeprefix("PGCACHEWATCH_").lower()
            assert name == "config" or name in options or name.removesuffix("_file") in options, name
    file = tomllib.loads((KUBERNETES / "base" / "pgcachewatch.toml").read_text(encoding="utf-8"))
    assert set(file) <= options


def test_example_of_tokens_is_one_that_the_relay_reads() -> None:
    roster = Roster.parse((KUBERNETES / "example" / "tokens.toml").read_text(encoding="utf-8"))

    assert len(roster) == 1


def test_relay_beside_an_application_listens_to_its_pod_only() -> None:
    (relay,) = (each for each in relays() if each.get("restartPolicy") == "Always")

    assert {"name": "PGCACHEWATCH_HOST", "value": "127.0.0.1"} in relay["env"]
    assert "ports" not in relay
