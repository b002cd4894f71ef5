"""The files of the stack, read without an engine: what they promise of ports, tags, rights, limits and mounts."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from ml_service.common.settings import PROJECT, Settings

DOCKERFILE = (PROJECT / "Dockerfile").read_text()
NGINX = (PROJECT / "deploy/nginx/nginx.conf").read_text()
SERVES_NOTHING = {"worker", "worker-gpu", "migrate"}


class Loader(yaml.SafeLoader):
    """YAML with the two tags of compose: what they say is taken as it stands, or is nothing."""


def _override(loader: Loader, node: yaml.Node) -> Any:
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else None


Loader.add_constructor("!override", _override)
Loader.add_constructor("!reset", lambda *_: None)


def compose(name: str) -> dict[str, Any]:
    return dict(yaml.load((PROJECT / name).read_text(), Loader))


STACK, PRODUCTION = compose("docker-compose.yml"), compose("docker-compose.production.yml")
SERVICES: dict[str, dict[str, Any]] = STACK["services"]


@pytest.fixture(params=sorted(SERVICES))
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SERVICES[request.param] | {"name": request.param}


def test_a_service_has_no_rights_that_it_does_not_need(service: dict[str, Any]) -> None:
    assert service["read_only"] is True and service["init"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service and "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))


def test_a_service_has_limits_and_an_end(service: dict[str, Any]) -> None:
    assert service["mem_limit"] and service["pids_limit"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert all("size=" in each for each in service["tmpfs"]) if "tmpfs" in service else service["name"] == "prometheus"
    if service["name"] != "migrate":
        assert service["restart"] == "unless-stopped"
        assert service["stop_grace_period"] and service["cpu_shares"]


def test_a_service_that_serves_says_when_it_is_healthy_and_needs_no_curl(service: dict[str, Any]) -> None:
    assert ("healthcheck" in service) == (service["name"] not in SERVES_NOTHING)
    assert "curl" not in str(service.get("healthcheck"))


def test_images_are_pinned(service: dict[str, Any]) -> None:
    name, _, tag = service["image"].partition(":")
    if "build" in service:
        assert tag == f"${{TAG:-{metadata.version('ml-service')}}}"
    else:
        assert re.match(r"v?\d+\.\d+", tag), f"{name}:{tag}"


def test_ports_are_on_loopback(service: dict[str, Any]) -> None:
    assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("file", [STACK, PRODUCTION], ids=["docker-compose.yml", "docker-compose.production.yml"])
def test_what_is_mounted_is_there(file: dict[str, Any]) -> None:
    for name, service in file["services"].items():
        for volume in service.get("volumes", []):
            source, target, *mode = volume.split(":")
            if source.startswith("."):
                assert (PROJECT / source).exists(), f"{name}: {source}"
                assert mode == ["ro"], f"{name} could change {target}"
            else:
                assert source in STACK["volumes"]


def test_the_worker_gives_way_and_has_time_for_a_checkpoint() -> None:
    assert SERVICES["worker"]["cpu_shares"] * 100 < SERVICES["backend"]["cpu_shares"]
    drain_s = Settings().drain_timeout_s
    for name in ("backend", "worker"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > drain_s + 10


def test_every_variable_is_a_setting() -> None:
    known = {f"ML_SERVICE_{name.upper()}" for name in Settings.model_fields}
    for file in (STACK, PRODUCTION):
        for service in file["services"].values():
            given = {name for name in service.get("environment", {}) if name.startswith("ML_SERVICE_")}
            assert given <= known
    assert {name for name in PRODUCTION["secrets"] if name.startswith("ml_service_")} <= {n.lower() for n in known}


def test_in_production_no_password_is_in_a_file_of_the_project() -> None:
    services = PRODUCTION["services"]
    aliases = re.findall(r"(?m)[:-] [&*]\w+", (PROJECT / "docker-compose.production.yml").read_text())
    assert not aliases, "compose applies `!reset` where it stands, and not where an alias repeats it"
    for name in ("backend", "worker", "worker-gpu", "migrate"):
        assert services[name]["environment"]["ML_SERVICE_DATABASE_URL"] is None
        assert "ml_service_database_url" in services[name]["secrets"]
    assert services["backend"]["environment"]["ML_SERVICE_ALLOW_OPEN_NETWORK"] is None
    assert "ml_service_api_key" in services["backend"]["secrets"]
    assert services["db"]["environment"]["POSTGRES_PASSWORD"] is None


def test_the_secrets_are_made_once_and_only_their_owner_enters(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    def make() -> dict[str, str]:
        subprocess.run([PROJECT / "deploy/make_secrets.sh", folder], check=True, capture_output=True)
        return {file.name: file.read_text().strip() for file in folder.iterdir()}

    made = make()
    assert made.keys() == PRODUCTION["secrets"].keys()
    assert made["database_password"] in made["ml_service_database_url"]
    assert len({*made.values()}) == 4 and min(map(len, made.values())) >= 48
    assert folder.stat().st_mode & 0o777 == 0o700
    assert make() == made, "a second time must not lock anybody out"


def test_nginx_passes_on_to_services_that_are_there() -> None:
    assert set(re.findall(r"default (\w+):(\d+);", NGINX)) == {("backend", "8000"), ("page", "8080")}
    assert SERVICES["frontend"]["ports"][0].endswith(":8080") and "listen 8080;" in NGINX


def test_the_image_is_built_without_a_registrys_front_end_and_names_no_index() -> None:
    assert "# syntax" not in DOCKERFILE
    for text in (DOCKERFILE, *((PROJECT / f"docker-compose{kind}.yml").read_text() for kind in ("", ".production"))):
        assert not re.findall(r"https://\S+", text)
    assert re.search(r"ARG PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+\n", DOCKERFILE)


def test_the_image_of_the_page_has_what_the_page_imports() -> None:
    group = tomllib.loads((PROJECT / "pyproject.toml").read_text())["dependency-groups"]["page"]
    allowed = _with_what_they_need(group)
    there = {top for top, names in metadata.packages_distributions().items() if allowed & {_plain(n) for n in names}}
    code = f"""
import sys, importlib.metadata as metadata
allowed = {there | {"ml_service", "lib"}!r}
others = set(metadata.packages_distributions()) - allowed
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in others:
            raise ModuleNotFoundError(f"not in the image: {{name}}", name=name)
sys.meta_path.insert(0, Refuse())
import ml_service.cli, ml_service.frontend.process
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _with_what_they_need(wanted: list[str]) -> set[str]:
    found: set[str] = set()
    waiting = [Requirement(each) for each in wanted]
    while waiting:
        requirement = waiting.pop()
        name = _plain(requirement.name)
        if name in found and not requirement.extras:
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            need = Requirement(text)
            extras = requirement.extras or {""}
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(need)
    return found
