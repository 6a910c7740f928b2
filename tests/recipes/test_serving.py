"""The service of a run: what it answers is what offline prediction says, what it refuses it says why."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from graft import create_app, load, train
from graft.errors import RunError
from graft.recipes import serving
from graft.recipes.options import RunOptions
from graft.recipes.recipe import Recipe
from graft.recipes.run import LoadedRun
from graft.recipes.serving_batches import Batcher, Overloaded, Stopped
from graft.recipes.serving_limits import BodyLimit, Limits

TEXTS = ["w1 w2", "", "w30", "w5 " * 60, "w7 w8 w9", "ü w1"]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, tiny_gpt2: Path, word_task: Path
) -> SimpleNamespace:
    out = tmp_path_factory.mktemp("runs")
    rows = [json.loads(line) for line in (word_task / "train.jsonl").read_text().splitlines()]
    pairs = out / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row | {"other": "w3", "points": len(row["text"]) / 7}) + "\n" for row in rows))

    def make(model: Path = tiny_bert, **task: Any) -> LoadedRun:
        recipe = Recipe.model_validate(
            {
                "task": {"data": str(pairs), "text": "text", "label": "label", "max_length": 24, **task},
                "model": str(model),
                "schedule": {"steps": 2, "examples": 8},
                "speed": {"precision": "fp32"},
                "threads": 1,
            }
        )
        return load(train(recipe, options=RunOptions(out=out, quiet=True)).folder)

    return SimpleNamespace(
        classes=make(),
        pairs=make(text="text,other"),
        scores=make(label="points"),
        language=make(tiny_gpt2, label=None, kind="causal_lm"),
    )


@pytest.fixture
def client(runs: SimpleNamespace) -> Iterator[TestClient]:
    with TestClient(create_app(runs.classes, Limits(batch=8, size=4000))) as opened:
        yield opened


def ask(client: TestClient, inputs: Any) -> list[dict[str, Any]]:
    answered = client.post("/predict", json={"inputs": inputs})
    assert answered.status_code == 200, answered.text
    found: list[dict[str, Any]] = answered.json()["predictions"]
    return found


def counts(client: TestClient) -> dict[str, float]:
    """Every sample of /metrics, read by the client library's own parser."""
    answered = client.get("/metrics")
    assert answered.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answered.text)
        for sample in family.samples
    }


def test_what_is_served_equals_what_is_predicted_offline(client: TestClient, runs: SimpleNamespace) -> None:
    offline = runs.classes.predict(TEXTS)
    for served in (ask(client, TEXTS), [ask(client, text)[0] for text in TEXTS]):
        assert [row["prediction"] for row in served] == [found.value for found in offline]
        for row, found in zip(served, offline, strict=True):
            assert row["probabilities"] == pytest.approx(found.probabilities, rel=1e-5)


def test_pairs_and_scores_are_served_too(runs: SimpleNamespace) -> None:
    asked = [("w1 w2", "w3"), ("w3", "w1 w2")]
    with TestClient(create_app(runs.pairs)) as client:
        served = ask(client, [{"text": first, "text_pair": second} for first, second in asked])
        for row, found in zip(served, runs.pairs.predict(asked), strict=True):
            assert row["probabilities"] == pytest.approx(found.probabilities, rel=1e-5)
        assert ask(client, {"text": "w1 w2", "text_pair": "w3"}) == [
            {"prediction": served[0]["prediction"], "probabilities": pytest.approx(served[0]["probabilities"])}
        ]
        assert client.post("/predict", json={"inputs": ["w1"]}).status_code == 422
        assert client.post("/predict", json={"inputs": {"text": "w1"}}).status_code == 422
    with TestClient(create_app(runs.scores)) as client:
        assert ask(client, "w1") == [{"prediction": pytest.approx(runs.scores.predict(["w1"])[0].value, rel=1e-5)}]
    with pytest.raises(RunError, match="language model"):
        create_app(runs.language)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"w1"',
        b'{"texts": ["w1"]}',
        b'{"inputs": []}',
        b'{"inputs": null}',
        b'{"inputs": 3}',
        b'{"inputs": ["w1", 3]}',
        b'{"inputs": [["w1"]]}',
        b'{"inputs": {"text": "w1", "text_pair": "w2"}}',
        b'{"inputs": "w1", "more": 1}',
        b'{"inputs": "\\ud800"}',
        b'{"inputs": "\xff"}',
        b'{"inputs": NaN}',
    ],
)
def test_a_malformed_request_is_422_and_does_not_repeat_what_was_sent(client: TestClient, body: bytes) -> None:
    answered = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answered.status_code == 422
    detail = answered.json()["detail"]
    assert all(set(item) == {"where", "what"} for item in detail)
    assert counts(client)["graft_requests_total 422"] == counts(client)["graft_errors_total"] == 1


def test_an_oversized_request_is_413_by_number_and_by_bytes(client: TestClient) -> None:
    assert len(ask(client, ["w1"] * 8)) == 8
    many = client.post("/predict", json={"inputs": ["w1"] * 9})
    assert (many.status_code, many.json()) == (413, {"detail": "9 inputs; send 8 at once, or fewer"})
    large = client.post("/predict", json={"inputs": "w1 " * 2000})
    assert large.status_code == 413
    assert "larger than 4000 bytes" in large.json()["detail"]
    chunks = (b"x" * 1000 for _ in range(9))  # no length is declared
    assert client.post("/predict", content=chunks).status_code == 413
    found = counts(client)
    assert (found["graft_requests_total 413"], found["graft_requests_total 200"], found["graft_errors_total"]) == (
        3,
        1,
        3,
    )
    assert found["graft_examples_total"] == found["graft_batch_examples_sum"] == 8
    assert found["graft_request_seconds_count"] == 1


def test_a_body_that_does_not_come_is_408() -> None:
    sent: list[Any] = []

    async def silent() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def never(*_: Any) -> None:
        pytest.fail("the app was asked")

    statuses: list[int] = []
    limited = BodyLimit(never, Limits(body=0.01), statuses.append)
    asyncio.run(limited({"type": "http", "headers": []}, silent, send))
    assert statuses == [sent[0]["status"]] == [408]


def test_it_says_what_it_serves(client: TestClient, runs: SimpleNamespace) -> None:
    assert client.get("/health").json() == {
        "status": "ok",
        "run": runs.classes.folder.name,
        "task": "custom",
        "method": "lora",
        "columns": ["text"],
        "classes": ["0", "1"],
    }
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/predict", "/health", "/metrics"}
    assert set(described["paths"]["/predict"]["post"]["responses"]) >= {"200", "413", "422", "503"}
    assert "swagger" in client.get("/docs").text
    assert client.get("/nothing").status_code == 404
    assert client.get("/predict").status_code == 405


class Held:
    """Answers a text with its length, once it may."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[list[str]] = []

    def __call__(self, texts: list[str]) -> list[int]:
        self.batches.append(texts)
        assert self.go.wait(10)
        if "bad" in texts:
            raise ValueError("bad")
        return [len(text) for text in texts]


def begun(held: Held, batches: int) -> None:
    """Wait until the model is at work."""
    until = time.monotonic() + 10
    while len(held.batches) < batches:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_requests_that_wait_together_are_answered_together() -> None:
    held = Held()
    batcher = Batcher(held, together=100, patience=0.0, waiting=100)
    first = batcher.submit(["a"])
    begun(held, 1)
    others = [batcher.submit(["bb", "ccc"]), batcher.submit(["bad"]), batcher.submit(["dddd"])]
    assert batcher.waiting == 4
    held.go.set()
    assert first.result(10) == [1]
    assert [others[0].result(10), others[2].result(10)] == [[2, 3], [4]]
    with pytest.raises(ValueError, match="bad"):
        others[1].result(10)
    assert held.batches == [["a"], ["bb", "ccc", "bad", "dddd"], ["bb", "ccc"], ["bad"], ["dddd"]]
    batcher.stop()


def test_a_request_gives_others_a_moment_to_share_its_batch() -> None:
    held = Held()
    held.go.set()
    batcher = Batcher(held, together=3, patience=60.0, waiting=100)
    asked = [batcher.submit([text]) for text in ("a", "b", "c")]
    assert [found.result(10) for found in asked] == [[1], [1], [1]]  # three are enough, nobody waits for the minute
    assert held.batches == [["a", "b", "c"]]
    batcher.stop()


def test_what_waits_is_answered_before_the_end_and_nothing_after_it() -> None:
    held = Held()
    batcher = Batcher(held, together=1, patience=0.0, waiting=100)
    asked = [batcher.submit([text]) for text in ("a", "bb", "ccc")]
    begun(held, 1)
    stopping = threading.Thread(target=batcher.stop)
    stopping.start()
    held.go.set()
    stopping.join(10)
    assert [found.result(0) for found in asked] == [[1], [2], [3]]
    with pytest.raises(Stopped):
        batcher.submit(["d"])


def test_more_than_may_wait_is_503_with_the_time_to_try_again(
    runs: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, busy = threading.Event(), threading.Event()
    judge = LoadedRun.judge

    def slow(self: LoadedRun, *arguments: Any) -> Any:
        busy.set()
        assert go.wait(10)
        return judge(self, *arguments)

    monkeypatch.setattr(LoadedRun, "judge", slow)
    with TestClient(create_app(runs.classes, Limits(waiting=3))) as client, ThreadPoolExecutor() as pool:
        first = pool.submit(ask, client, "w1")
        assert busy.wait(10)
        second = pool.submit(ask, client, ["w1"] * 3)
        while counts(client)["graft_waiting_examples"] < 3:
            time.sleep(0.001)
        third = client.post("/predict", json={"inputs": "w1"})
        assert (third.status_code, third.headers["retry-after"]) == (503, "1")
        go.set()
        assert (len(first.result(10)), len(second.result(10))) == (1, 3)
        assert counts(client)["graft_requests_total 503"] == 1


def test_overload_is_of_what_waits_not_of_one_large_request() -> None:
    held = Held()
    batcher = Batcher(held, together=1, patience=0.0, waiting=2)
    batcher.submit(["a"] * 5)
    begun(held, 1)
    batcher.submit(["a"])
    with pytest.raises(Overloaded):
        batcher.submit(["a", "b"])
    held.go.set()
    batcher.stop()


@pytest.mark.slow
def test_the_command_serves_and_on_sigterm_finishes_what_is_under_way(runs: SimpleNamespace) -> None:
    # A request waits three seconds for company; the signal comes meanwhile.
    command = [sys.executable, "-m", "graft", "serve", str(runs.classes.folder), "--port", "0", "--wait-ms", "3000"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process,
        ThreadPoolExecutor() as pool,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        found = re.fullmatch(r"serving: (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
        assert found, process.stderr.read()

        def post(text: str) -> Any:
            body = json.dumps({"inputs": text}).encode()
            headers = {"content-type": "application/json"}
            request = urllib.request.Request(f"{found[1]}/predict", body, headers)
            with urllib.request.urlopen(request, timeout=30) as answered:
                return json.load(answered)

        under_way = pool.submit(post, "w1 w2")
        waits = 0.0
        while not waits:
            assert not under_way.done()
            with urllib.request.urlopen(f"{found[1]}/metrics", timeout=30) as answered:
                lines = answered.read().decode()
            waits = float(re.findall(r"^graft_requests_in_progress (\S+)", lines, flags=re.MULTILINE)[0])
        process.send_signal(signal.SIGTERM)
        (row,) = under_way.result(30)["predictions"]
        assert process.wait(30) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
    (offline,) = runs.classes.predict(["w1 w2"])
    assert row == {"prediction": offline.value, "probabilities": pytest.approx(offline.probabilities, rel=1e-5)}


def test_small_answers_are_sent_at_once() -> None:
    async def nodelay(listener: socket.socket) -> int:
        """Whether the service's end of a connection waits for nothing before it sends."""
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def met(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        async with await asyncio.start_server(met, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            try:
                return await asyncio.wait_for(found, 10)
            finally:
                writer.close()

    with serving._listening("127.0.0.1", 0) as listener:
        assert asyncio.run(nodelay(listener))


def test_a_port_in_use_and_a_missing_package_are_one_message(
    runs: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serving.main(serving.Request(runs.classes.folder, port=port)) == 2
    assert f"error: --host 127.0.0.1 --port {port}: Address already in use" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert serving.main(serving.Request(runs.classes.folder)) == 2
    assert capsys.readouterr().err == 'error: serving needs uvicorn; install it with: pip install "graft-nlp[serve]"\n'
