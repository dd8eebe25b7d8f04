"""KubeRay's manifests: fields by KubeRay's reference, pods by Kubernetes' schemas, and what a cluster of ours needs."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines import pretrain

GRACE = 120
IN_IMAGE = "/home/ray/tats_ray/"
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def bytes_of(quantity: str) -> float:
    return float(quantity[:-2]) * UNITS[quantity[-2:]]


def pod_specs(cluster: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


@pytest.fixture(scope="module")
def pods(ray_cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(pod_specs(ray_cluster["spec"]))


def test_fields_are_those_of_kuberay(ray_cluster: dict[str, Any], ray_job: dict[str, Any]) -> None:
    schema = yaml.safe_load((Path(__file__).parent / "kuberay.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for manifest in (ray_cluster, ray_job):
        jsonschema.validate(manifest, schema)


def test_pods_are_valid_kubernetes(pods: dict[str, dict[str, Any]], ray_job: dict[str, Any]) -> None:
    submitter = ray_job["spec"]["submitterPodTemplate"]["spec"]
    for name, spec in [*pods.items(), ("submitter", submitter)]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_the_shared_storage_is_a_claim_that_all_pods_mount(deploy: Path, pods: dict[str, dict[str, Any]]) -> None:
    claim = yaml.safe_load((deploy / "kubernetes" / "storage.yaml").read_text())
    kubernetes_validate.validate(claim, kubernetes_validate.latest_version(), strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for spec in pods.values():
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in spec["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert claims == {"shared": claim["metadata"]["name"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
        assert mounts["shared"] == "/shared"


def test_a_job_has_the_pods_of_the_cluster(ray_cluster: dict[str, Any], ray_job: dict[str, Any]) -> None:
    assert ray_job["spec"]["rayClusterSpec"] == ray_cluster["spec"]


def test_a_job_ends_with_its_cluster_and_is_tried_again(ray_job: dict[str, Any]) -> None:
    spec = ray_job["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] >= 1


def test_images_have_the_clients_ray_and_python(
    ray_cluster: dict[str, Any],
    ray_job: dict[str, Any],
    pods: dict[str, dict[str, Any]],
    own_tag: str,
    ray_version: str,
) -> None:
    assert ray_cluster["spec"]["rayVersion"] == ray_version
    submitter = ray_job["spec"]["submitterPodTemplate"]["spec"]
    for spec in (*pods.values(), submitter):
        name, _, tag = spec["containers"][0]["image"].rpartition(":")
        assert name.endswith("/tats-ray")
        device = "cuda" if "nvidia.com/gpu" in spec["containers"][0]["resources"]["limits"] else "cpu"
        assert tag == own_tag + device


def test_the_head_takes_no_work_and_a_token_is_asked_for(ray_cluster: dict[str, Any]) -> None:
    head = ray_cluster["spec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert ray_cluster["spec"]["authOptions"] == {"mode": "token"}


def test_nothing_is_reached_from_outside(ray_cluster: dict[str, Any], pods: dict[str, dict[str, Any]]) -> None:
    head = ray_cluster["spec"]["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"
    assert not {"enableIngress", "ingressOptions", "headService"} & set(head)
    for spec in pods.values():
        assert not spec.get("hostNetwork")
        assert not any("hostPort" in port for port in spec["containers"][0]["ports"])


def test_nobody_is_root(pods: dict[str, dict[str, Any]], ray_job: dict[str, Any]) -> None:
    for spec in (*pods.values(), ray_job["spec"]["submitterPodTemplate"]["spec"]):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 1000
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_shared_memory_holds_rays_object_store(pods: dict[str, dict[str, Any]]) -> None:
    for spec in pods.values():
        container = spec["containers"][0]
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        (memory,) = [volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shm"]
        assert memory["medium"] == "Memory"
        # Ray's own share; a smaller /dev/shm makes it spill to the disk.
        assert bytes_of(memory["sizeLimit"]) >= 0.3 * bytes_of(container["resources"]["limits"]["memory"])


def test_a_pod_waits_for_the_checkpoint_of_a_stopped_job(deploy: Path, pods: dict[str, dict[str, Any]]) -> None:
    (gives_up,) = re.findall(r'"--seconds", type=float, default=([\d.]+)', (deploy / "pre_stop.py").read_text())
    for name, spec in pods.items():
        container = spec["containers"][0]
        waits = next(one["value"] for one in container["env"] if one["name"] == "RAY_JOB_STOP_WAIT_TIME_S")
        assert float(waits) < float(gives_up) < spec["terminationGracePeriodSeconds"] == GRACE
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command[:2] == ["python", IN_IMAGE + "deploy/pre_stop.py"]
        assert command[2:] == ["head" if name == "head" else "worker"]


def test_gpus_are_where_training_is(pods: dict[str, dict[str, Any]]) -> None:
    for name, spec in pods.items():
        limits = spec["containers"][0]["resources"]["limits"]
        assert limits == spec["containers"][0]["resources"]["requests"]
        assert ("nvidia.com/gpu" in limits) == (name == "train")
        tolerated = {one["key"] for one in spec.get("tolerations", ())}
        assert tolerated == ({"nvidia.com/gpu"} if name == "train" else set())


def test_the_jobs_command_is_one_of_ours_and_fits_its_cluster(
    ray_job: dict[str, Any], deploy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python, script, *arguments = shlex.split(ray_job["spec"]["entrypoint"])
    assert python == "python"
    assert script == IN_IMAGE + "pipelines/pretrain.py"
    assert pretrain.main([*arguments, "--dry-run"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out.split("\n\n")[0])
    (train,) = [one for one in ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"] if one["groupName"] == "train"]
    limits = train["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert settings["cluster"]["num_workers"] == train["replicas"] * int(limits["nvidia.com/gpu"])
    assert settings["cluster"]["cpus_per_worker"] <= int(limits["cpu"])
    assert settings["results"] == "/shared/results"


def test_metrics_ports_are_those_that_prometheus_asks(deploy: Path, pods: dict[str, dict[str, Any]]) -> None:
    monitor = yaml.safe_load((deploy / "kubernetes" / "podmonitor.yaml").read_text())
    asked = {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]}
    offered = {port["name"] for spec in pods.values() for port in spec["containers"][0]["ports"]}
    assert asked <= offered
    assert all("metrics" in {port["name"] for port in spec["containers"][0]["ports"]} for spec in pods.values())
