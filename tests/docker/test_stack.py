"""The stack as its users have it, in the order of a life: started, used, broken, scaled, stopped, started again."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import websockets.sync.client

from ml_service.common.settings import PROJECT
from tests.docker.conftest import Figures
from tests.docker.stack import Stack, docker, until

pytestmark = pytest.mark.docker
START_S = 60.0
STREAMED = {"stream": True, "temperature": 1.0, "seed": 1, "ignore_eos": True}
TRAINING_S = 600.0
"""It gives way to everybody, so where the machine has other work it waits."""
HARDENED = ("backend", "worker", "page", "frontend", "db", "prometheus", "migrate")
PICO = {"preset": "pico", "window": 64, "batch_size": 8, "validation_tokens": 1024, "precision": "fp32"}

ASK_IN_IT = """
import json, urllib.request
body, kind = json.dumps({"text": "a", "max_new_tokens": 1}).encode(), {"Content-Type": "application/json"}
answer = urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8000/forward", body, kind))
print(json.load(answer)["model"]["generation"])
"""


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


def ask(client: httpx.Client, text: str = "import os\n", **changes: object) -> httpx.Response:
    return client.post("/forward", json={"text": text, "max_new_tokens": 8} | changes)


def experiment(client: httpx.Client, number: int) -> dict[str, Any]:
    return dict(client.get(f"/metrics/{number}").raise_for_status().json())


def share(client: httpx.Client, number: int) -> float:
    return float(experiment(client, number)["progress"].get("share", 0))


def trained_steps(stack: Stack, number: int) -> list[int]:
    """In the order in which the worker's log has them, its earlier lives included."""
    events = [json.loads(line) for line in stack.log_lines("worker")]
    return [
        each["step"] for each in events if each.get("event") == "training.progress" and each["experiment"] == number
    ]


def retrain(client: httpx.Client, budget: dict[str, float]) -> int:
    hyperparameters = PICO | {"checkpoints": 8}
    wish = {"start_from": "scratch", "budget": budget, "hyperparameters": hyperparameters, "replay": 0}
    answer = client.post("/retrain", json=wish)
    assert answer.status_code == 202, answer.text
    return int(answer.json()["experiment_id"])


def pieces_of(client: httpx.Client, path: str, body: dict[str, Any]) -> list[float]:
    """When each piece of a stream came, in seconds after the first."""
    with client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        times = [time.perf_counter() for _ in answer.iter_raw()]
    return [each - times[0] for each in times]


def test_everything_is_healthy_within_a_minute(stack: Stack, figures: Figures) -> None:
    figures["first_up_s"] = round(stack.up(), 1)
    assert figures["first_up_s"] < START_S
    for service in ("backend", "page", "frontend", "db", "prometheus"):
        assert [each["State"]["Health"]["Status"] for each in stack.inspect(service)] == ["healthy"]
    assert stack.inspect("worker")[0]["State"]["Running"]
    assert stack.inspect("migrate")[0]["State"]["ExitCode"] == 0


@pytest.mark.parametrize("service", HARDENED)
def test_a_container_has_no_rights_that_it_does_not_need(stack: Stack, service: str) -> None:
    (container,) = stack.inspect(service)
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Privileged"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert container["Config"]["User"].partition(":")[0] not in ("", "0", "root")
    assert host["Memory"] and host["PidsLimit"] and host["Init"]
    assert {bind["HostIp"] for ports in host["PortBindings"].values() for bind in ports} <= {"127.0.0.1"}


def test_who_runs_in_a_container_can_write_nothing_but_its_volume(stack: Stack) -> None:
    told = stack.execute(
        "backend",
        "sh",
        "-c",
        "id -u; touch /app/x /venv/x /etc/x; touch /store/x && rm /store/x && echo kept",
        check=False,
    )
    assert told.split() == ["10001", "kept"]
    status = stack.execute("worker", "cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status


def test_an_answer_comes_through_nginx_and_names_its_request(client: httpx.Client) -> None:
    answer = client.post("/forward", json={"text": "import os\n"}, headers={"X-Request-ID": "mine"})
    assert answer.status_code == 200 and answer.json()["prediction"]
    assert answer.headers["x-request-id"] == "mine"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/forward", {"text": "def ", "max_new_tokens": 600}),
        ("/v1/completions", {"model": "active", "prompt": "def ", "max_tokens": 600}),
    ],
)
def test_a_stream_comes_token_by_token(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    moments = {round(each, 3) for each in pieces_of(client, path, body | STREAMED)}
    assert len(moments) > 5, "a proxy kept it and gave it at once"


def test_a_picture_is_read(client: httpx.Client) -> None:
    picture = (PROJECT / "data/samples/code.png").read_bytes()
    answer = client.post("/forward", files={"image": ("code.png", picture)}, data={"max_new_tokens": "8"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["prediction"]


def test_a_refusal_is_the_services_own(client: httpx.Client) -> None:
    answer = client.post("/forward", content=b"{}" + b" " * 40_000_000, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["type"] == "urn:ml-service:too-large"


def test_an_upload_of_many_megabytes_passes_without_lying_in_between(stack: Stack, client: httpx.Client) -> None:
    piece = b"#" * (1 << 20)

    def body() -> Iterator[bytes]:
        yield b'--edge\r\nContent-Disposition: form-data; name="files"; filename="large.bin"\r\n\r\n'
        for _ in range(300):
            yield piece
            kept.append(int(stack.execute("frontend", "sh", "-c", "du -s /tmp | cut -f1")) if len(kept) < 3 else 0)
        yield b"\r\n--edge--\r\n"

    kept: list[int] = []
    answer = client.post("/add_data", content=body(), headers={"Content-Type": "multipart/form-data; boundary=edge"})
    assert answer.status_code == 400 and "unknown kind" in answer.text, "it was taken to its end, and looked at"
    assert max(kept) < 1024, "kilobytes in nginx' folder while it was passed on"


def test_the_page_comes_through_nginx_with_its_web_socket(stack: Stack, client: httpx.Client) -> None:
    assert client.get("/").headers["location"] == "/ui/"
    page = client.get("/ui/")
    assert page.status_code == 200 and "ml_service" in page.text
    address = stack.url.replace("http", "ws") + "/ui/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    with websockets.sync.client.connect(address, origin=stack.url) as socket:
        assert str(socket.recv(timeout=10)).startswith('0{"sid"')
    for path in ("experiments", "data", "deployments", "evaluate", "health"):
        assert client.get(f"/ui/{path}").status_code == 200


def test_data_is_added_learnt_and_deployed(client: httpx.Client) -> None:
    dice = random.Random(0)
    words = ["".join(dice.choices("abcdefghij", k=6)) for _ in range(50)]
    texts = [f"def {words[i % 50]}_{i}(): return '{' '.join(dice.choices(words, k=100))}'" for i in range(300)]
    added = client.post("/add_data", json={"texts": texts, "name": "words", "licence": "CC0-1.0"})
    assert added.status_code in (200, 202), added.text
    until(lambda: bool(client.get("/datasets").json()), "a data set")
    number = retrain(client, {"steps": 20})
    until(lambda: experiment(client, number)["state"] in ("succeeded", "failed"), "the end of the training", TRAINING_S)
    assert experiment(client, number)["state"] == "succeeded", experiment(client, number)
    assert client.post(f"/deploy/{number}").raise_for_status().json()["replicas"]["loaded"] == 1
    assert ask(client).json()["model"]["experiment_id"] == number
    facts = client.get("/metadata").raise_for_status().json()
    assert len(facts["training_commit"].removesuffix("-dirty")) == 40, "the image knows the commit of its code"


def test_without_the_database_answers_go_on_and_writes_wait(
    stack: Stack, client: httpx.Client, figures: Figures
) -> None:
    docker("kill", *stack.containers("db"))
    texts = {"texts": ["something that is said while nobody can write it down"], "name": "later"}
    for number in range(30):
        assert ask(client, f"value_{number} = ").status_code == 200
    refused = client.post("/add_data", json=texts)
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
    assert client.get("/health/ready").status_code == 200
    stack.compose("up", "--detach", "--no-build", "--no-deps", "db")
    recovered_s = until(lambda: client.post("/add_data", json=texts).status_code < 300, "the recovery")
    figures["recovered_after_database_s"] = round(recovered_s, 1)
    assert ask(client).status_code == 200


def test_a_database_that_dies_by_itself_is_started_again(stack: Stack, client: httpx.Client) -> None:
    stack.kill_nine("db")
    until(lambda: client.post("/add_data", json={"texts": ["after the fall"]}).status_code < 300, "the recovery")
    assert stack.inspect("db")[0]["RestartCount"] == 1


def test_a_worker_that_is_killed_goes_on_where_it_was(stack: Stack, client: httpx.Client, figures: Figures) -> None:
    number = retrain(client, {"seconds": 30})
    until(lambda: share(client, number) > 0.4, "almost half of the training", TRAINING_S)
    before = trained_steps(stack, number)
    stack.kill_nine("worker")
    killed = time.monotonic()
    until(lambda: stack.inspect("worker")[0]["RestartCount"] == 1, "the restart")
    until(lambda: len(trained_steps(stack, number)) > len(before), "a step of the next process", TRAINING_S)
    figures["training_went_on_s"] = round(time.monotonic() - killed, 1)
    until(lambda: experiment(client, number)["state"] in ("succeeded", "failed"), "the end of the training", TRAINING_S)
    found = experiment(client, number)
    assert found["state"] == "succeeded", found
    assert trained_steps(stack, number)[len(before)] > before[-1] / 2, "it went on from a checkpoint, not from nothing"


def test_three_replicas_have_one_deployment_and_follow_the_next(
    stack: Stack, client: httpx.Client, figures: Figures
) -> None:
    figures["scale_to_three_s"] = round(stack.up("--scale", "backend=3"), 1)
    overview = client.get("/deployments").json()
    until(lambda: len(client.get("/deployments").json()["replicas"]) == 3, "three replicas")
    assert _generations(stack) == [overview["generation"]] * 3
    first = client.get("/deployments").json()["history"][-1]["experiment_id"]
    deployed = client.post(f"/deploy/{first}").raise_for_status().json()
    converged_s = until(lambda: set(_generations(stack)) == {deployed["generation"]}, "the same deployment everywhere")
    figures["three_follow_a_deploy_s"] = round(converged_s, 1)
    answers = [ask(client, f"x_{number} = ") for number in range(60)]
    assert {answer.json()["model"]["experiment_id"] for answer in answers} == {first}
    used = {each["upstream"] for each in map(json.loads, stack.log_lines("frontend")) if each["path"] == "/forward"}
    assert len(used) >= 3, "nginx asks all of them"


def test_a_replica_that_dies_takes_no_answer_with_it(stack: Stack, client: httpx.Client) -> None:
    victim = stack.inspect("backend")[-1]["Id"]
    docker("kill", victim)
    assert [ask(client, f"y_{number} = ").status_code for number in range(100)] == [200] * 100
    stack.up("--scale", "backend=3")
    stack.up("--scale", "backend=1")
    assert [ask(client, f"z_{number} = ").status_code for number in range(50)] == [200] * 50


def test_prometheus_finds_what_it_is_to_ask(stack: Stack) -> None:
    with httpx.Client(base_url=stack.prometheus_url) as prometheus:

        def healths() -> dict[str, str]:
            targets = prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]
            return {target["scrapeUrl"]: target["health"] for target in targets}

        until(lambda: len(healths()) == 2 and set(healths().values()) == {"up"}, "both targets")
        query = {"query": "ml_service_model_info"}
        until(lambda: bool(prometheus.get("/api/v1/query", params=query).json()["data"]["result"]), "our figures")
        groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
        assert sum(len(group["rules"]) for group in groups) > 5


def test_down_and_up_again_loses_nothing(stack: Stack, client: httpx.Client, figures: Figures) -> None:
    def remembered() -> dict[str, Any]:
        overview = client.get("/deployments").json()
        return {
            "deployments": [(each["id"], each["experiment_id"]) for each in overview["history"]],
            "generation": overview["generation"],
            "experiments": [(e["experiment_id"], e["state"]) for e in client.get("/experiments").json()["experiments"]],
            "datasets": client.get("/datasets").json(),
            "answer": ask(client, "def ").json()["prediction"],
        }

    before = remembered()
    figures["down_s"] = round(stack.down(), 1)
    assert not stack.containers("backend")
    figures["up_again_s"] = round(stack.up(), 1)
    assert remembered() == before
    assert "hold together" in stack.execute("backend", "ml-service", "audit", "verify")


def _generations(stack: Stack) -> list[int]:
    """Of each replica, asked by itself."""
    return [int(docker("exec", container, "python", "-c", ASK_IN_IT)) for container in stack.containers("backend")]
