"""The doctor says what is missing, and its exit code whether graft can train."""

import importlib.metadata
import json
import os
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from graft.adapters import checkpoint
from graft.adapters.checkpoint import Alias
from graft.files import sha256_file
from graft.recipes import doctor, hardware
from graft.recipes.doctor import Finding


def states(findings: Iterator[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def test_packages_are_compared_with_what_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["click>=8", "numpy>=99,<100", "there-is-none>=1", 'never; extra == "dev"', 'x; python_version < "3"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    found = {finding.name: finding for finding in doctor.packages()}
    assert states(iter(found.values())) == {"python": "ok", "click": "ok", "numpy": "fails", "there-is-none": "fails"}
    assert importlib.metadata.version("numpy") in found["numpy"].found
    assert "pip install 'numpy" in found["numpy"].advice
    assert "99" in found["numpy"].advice
    assert found["there-is-none"].advice == "pip install 'there-is-none>=1'"


def test_an_old_python_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.10.9")
    assert states(doctor.packages())["python"] == "fails"


def test_a_package_that_is_there_and_does_not_load_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(doctor.imports()) == {"training": "ok"}

    def broken(name: str) -> None:
        raise OSError("libcudart.so.12: cannot open shared object file\nsecond line")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    (finding,) = doctor.imports()
    assert finding.state == "fails"
    assert finding.found == "OSError: libcudart.so.12: cannot open shared object file"


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for precision, state in (("bf16", "ok"), ("fp32", "note")):
        monkeypatch.setattr(hardware, "precision", lambda device, value=precision: value)
        found = {finding.name: finding for finding in doctor.machine()}
        assert found["bf16"].state == state
    assert found["device"].found.startswith("cpu")
    assert found["threads"].found.startswith(str(hardware.threads()))
    assert str(tmp_path) in found["disk"].found


def test_little_disk_and_a_folder_that_cannot_be_written_are_noted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert doctor._disk(tmp_path).state == "ok"
    monkeypatch.setattr(doctor, "_LITTLE_DISK", 2**62)
    assert doctor._disk(tmp_path).state == "note"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written" in doctor._disk(tmp_path).found


def test_checkpoints_in_packages_are_verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    good = Alias("us/good", "good", "model", {"config.json": sha256_file(tmp_path / "config.json")})
    bad = Alias("us/bad", "bad", "model", {"config.json": "0" * 64})
    away = Alias("us/away", "away", "model", {})
    monkeypatch.setattr(checkpoint, "MODELS", {"good": good, "bad": bad, "away": away})
    monkeypatch.setattr(checkpoint, "embedded", lambda alias: None if alias is away else tmp_path)
    found = {finding.name: finding for finding in doctor.checkpoints()}
    assert states(iter(found.values())) == {"good": "ok", "bad": "fails", "away": "note"}
    assert "SHA-256" in found["bad"].found
    assert found["away"].advice == "pip install away"


class Answering(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize("status", [200, 503])
def test_a_hub_that_answers_is_reachable(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answering, "status", status)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(doctor, "_PATIENCE", 60.0)
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        (finding,) = doctor.hub()
    assert finding.state == "ok"


def test_a_hub_that_refuses_or_keeps_silent_is_noted_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        (refused,) = doctor.hub()
        silent.listen()
        monkeypatch.setattr(doctor, "_PATIENCE", 0.05)
        started = time.monotonic()
        (kept_silent,) = doctor.hub()
    assert time.monotonic() - started < 30
    assert refused.state == kept_silent.state == "note"
    assert "cannot be reached" in refused.found
    assert "HF_HUB_OFFLINE=1" in refused.advice


def test_an_offline_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(doctor, "silence", lambda *_: pytest.fail("asked"))
    (finding,) = doctor.hub()
    assert finding.state == "note"
    assert "HF_HUB_OFFLINE" in finding.found


def test_what_is_optional_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["click", 'click; extra == "tracking"', 'there-is-none; extra == "tracking"', 'mypy; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    found = {finding.name: finding for finding in doctor.optional()}
    assert set(found) == {"click", "there-is-none", "bitsandbytes"}
    assert found["click"].state == "ok"
    assert found["there-is-none"].state == "note"
    assert found["there-is-none"].advice == "pip install there-is-none"


def test_this_environment_can_train(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["can_train"] is True
    topics = {finding["topic"] for finding in report["findings"]}
    assert topics == {"packages", "imports", "machine", "checkpoints", "hub", "optional"}
    assert {"torch", "transformers", "peft"} <= {finding["name"] for finding in report["findings"]}


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("note", 0), ("fails", 2)])
def test_only_what_is_necessary_decides_the_exit_code(
    state: doctor.State, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("topic", "thing", state, "found", "do this")])
    assert doctor.main(as_json=False) == code
    text = capsys.readouterr().out
    assert "thing" in text
    assert "do this" in text
    assert ("cannot train here: thing" in text) == (code == 2)
    assert doctor.main(as_json=True) == code
    assert json.loads(capsys.readouterr().out)["can_train"] == (code == 0)


def test_a_missing_package_does_not_keep_the_doctor_from_looking_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> Iterator[Finding]:
        raise ModuleNotFoundError("No module named 'psutil'")
        yield

    monkeypatch.setattr(doctor, "machine", look)
    monkeypatch.setattr(doctor, "hub", lambda: iter([Finding("hub", "hub", "ok", "")]))
    found = {finding.name: finding for finding in doctor.examine()}
    assert found["machine"].state == "fails"
    assert "psutil" in found["machine"].found
    assert found["hub"].state == "ok"


def test_the_report_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = doctor._as_text([Finding("topic", "thing", "note", "many words " * 30, "and advice")])
    assert max(map(len, text.splitlines())) <= 80
