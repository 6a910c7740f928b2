"""Who carries runs out makes no difference: processes, SLURM jobs and Ray actors give the same numbers, even killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from graft import train
from graft.errors import RunError
from graft.eval.comparison import read_comparison
from graft.eval.records import read_record
from graft.recipes.building import gather
from graft.recipes.compare import compare
from graft.recipes.execution import ATTEMPTS, Crew, Job, Outcome, WorkerLostError
from graft.recipes.local_executor import LocalWorker
from graft.recipes.options import RunOptions
from graft.recipes.slurm_executor import make_submitter

SCRIPT = Path(__file__).parents[2] / "recipes" / "compare.py"
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def settings(tiny_bert, word_task):
    return {
        "task": {"name": "words", "data": str(word_task), "text": "text", "label": "label", "max_length": 24},
        "model": str(tiny_bert),
        "methods": ["full", "lora"],
        "seeds": 2,
        "trials": 2,
        "margin": 5.0,
        "schedule": {"steps": 12, "examples": 8},
        "speed": {"precision": "fp32"},
    }


@pytest.fixture(scope="module")
def by_one_worker(settings, tmp_path_factory):
    """The folder of a comparison that one process has made."""
    out = tmp_path_factory.mktemp("one")
    compare(settings, out=out, workers=1, costs=False)
    return out


def contents(out):
    """Run folder's name → what must be the same whoever made it."""
    return {
        path.parent.name: (path.parent.joinpath("predictions.parquet").read_bytes(), read_record(path.parent).losses)
        for path in out.glob("*/record.json")
    }


def verdict(out):
    return [(r.task, r.method, r.seeds, r.scores, r.difference, r.low, r.high) for r in read_comparison(out).results]


def assert_same(out, by_one_worker):
    assert contents(out) == contents(by_one_worker)
    assert len(contents(out)) == 2 * 3
    assert verdict(out) == verdict(by_one_worker)


class Scripted:
    """A worker that does what it is told: an outcome, or an error to raise."""

    def __init__(self, *script):
        self.script, self.done, self.stopped = list(script), [], False

    def carry_out(self, job):
        self.done.append(job)
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    def stop(self):
        self.stopped = True

    def close(self):
        self.closed = True


def outcome_of(*script, job=None):
    worker = Scripted(*script)
    crew = Crew([worker])
    outcome = crew.submit(job).result(timeout=60)
    crew.close()
    assert worker.closed
    return outcome, worker


def test_a_lost_worker_is_tried_again_and_given_up_with_its_last_words():
    lost, fine = WorkerLostError("killed"), Outcome(seconds=1.0)
    assert outcome_of(lost, lost, fine)[0] == fine
    outcome, worker = outcome_of(*[lost] * ATTEMPTS)
    assert outcome.failure == f"its worker was lost {ATTEMPTS} times: killed"
    assert len(worker.done) == ATTEMPTS


def test_a_run_that_somebody_else_stopped_goes_on():
    fine = Outcome(seconds=1.0)
    assert outcome_of(Outcome(interrupted=True), fine)[0] == fine


def test_an_interrupted_crew_stops_its_workers_and_drops_what_waits():
    released: Future = Future()
    worker = Scripted()
    worker.carry_out = lambda job: released.result(timeout=60)
    worker.stop = lambda: released.set_result(Outcome(interrupted=True))
    crew = Crew([worker])
    running, waiting = crew.submit(None), crew.submit(None)
    while not running.running():
        time.sleep(0.01)
    crew.interrupt()
    assert running.result() == Outcome(interrupted=True)
    assert waiting.cancelled()


@pytest.mark.slow
def test_two_workers_make_byte_for_byte_what_one_makes(settings, by_one_worker, tmp_path):
    compare(settings, out=tmp_path, workers=2, costs=False)
    assert_same(tmp_path, by_one_worker)
    if hasattr(os, "sched_getaffinity"):
        assert len(os.sched_getaffinity(0)) >= 1


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_a_refused_run_leaves_it_well(tiny_recipe, tmp_path):
    worker = LocalWorker(tmp_path / "log", cores=[], environment={"OMP_NUM_THREADS": "1"})
    job = Job(tiny_recipe("bitfit"), "final", tmp_path)
    assert worker.carry_out(job).failure is None
    assert list(tmp_path.glob("*/record.json"))
    worker._process.kill()
    with pytest.raises(WorkerLostError, match="signal 9"):
        worker.carry_out(job)
    bad = worker.carry_out(replace(job, recipe=tiny_recipe({"name": "prefix", "tokens": 39})))
    assert "prefix needs 39" in bad.failure
    assert worker.carry_out(job).failure is None
    worker.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["it is asked to", "its comparison is gone"])
def test_a_worker_stops_in_the_middle_of_a_run_and_the_run_can_go_on(how, tiny_recipe, tmp_path):
    worker = LocalWorker(tmp_path / "log", cores=[], environment={"OMP_NUM_THREADS": "1"})
    endless = tiny_recipe("bitfit", schedule={"steps": 1_000_000, "evaluate": 20})
    with ThreadPoolExecutor(1) as waiting:
        outcome = waiting.submit(worker.carry_out, Job(endless, "final", tmp_path))
        try:
            while not list(tmp_path.glob("*/checkpoints/step-*")):
                assert not outcome.done(), outcome.result()
            process = worker._process
            if how == "it is asked to":
                worker.stop()
                assert outcome.result(timeout=60) == replace(outcome.result(), interrupted=True, failure=None)
                worker.close()
            else:
                process.stdin.close()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    (state,) = tmp_path.glob("*/checkpoints/step-*/state.json")
    assert json.loads(state.read_text())["step"] > 0


def test_a_run_that_another_process_makes_is_waited_for(tiny_recipe, tmp_path):
    recipe = tiny_recipe("bitfit")
    lock = FileLock(tmp_path / ".locks" / gather(recipe).digest[:12])
    Path(lock.lock_file).parent.mkdir()
    lock.acquire()
    with pytest.raises(RunError, match="another process is training this very run"):
        train(recipe, options=RunOptions(out=tmp_path, quiet=True))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(train, recipe, options=RunOptions(out=tmp_path, quiet=True, wait=True))
        with pytest.raises(TimeoutError):
            waiting.result(timeout=2)
        lock.release()
        assert waiting.result(timeout=60).record.steps == 14


def command(settings, out, tmp_path, *flags):
    file = tmp_path / "compare.yaml"
    file.write_text(json.dumps(settings))
    return [
        sys.executable,
        "-m",
        "graft",
        "compare",
        "--recipe",
        str(file),
        "--out",
        str(out),
        "--costs",
        "false",
        *flags,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGKILL to all", "SIGKILL to the comparison alone", "SIGINT"])
def test_a_comparison_that_is_stopped_in_the_middle_goes_on_to_the_same_result(how, settings, by_one_worker, tmp_path):
    out = tmp_path / "runs"
    begun = subprocess.Popen(
        command(settings, out, tmp_path, "--workers", "2"), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    for line in begun.stderr:
        if re.match(r"[123] of 6: ", line):
            break
    workers = psutil.Process(begun.pid).children(recursive=True)
    assert workers
    if how == "SIGINT":
        begun.send_signal(signal.SIGINT)
        assert "the same command goes on where it stopped" in begun.stderr.read()
        assert begun.wait() == 130
    else:
        for process in workers if how == "SIGKILL to all" else []:
            process.kill()
        begun.kill()
        begun.wait()
    begun.stderr.close()
    assert not (out / "comparison.json").exists()
    made = len(list(out.glob("*/record.json")))
    assert made < 6
    if how == "SIGINT":
        done = subprocess.run(
            command(settings, out, tmp_path), env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    else:
        compare(settings, out=out, workers=1, costs=False)
    assert_same(out, by_one_worker)
    assert not [process for process in workers if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_slurm_jobs_make_the_same_runs(settings, tmp_path):
    pytest.importorskip("submitit")
    small = settings | {"seeds": 1, "trials": 1}
    compare(small, out=tmp_path / "here", workers=1, costs=False)
    compare(small, out=tmp_path / "slurm", executor="slurm", slurm={"cluster": "local"}, workers=2, costs=False)
    assert contents(tmp_path / "slurm") == contents(tmp_path / "here")
    assert len(contents(tmp_path / "slurm")) == 2
    assert verdict(tmp_path / "slurm") == verdict(tmp_path / "here")


def test_what_slurm_is_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    settings = {"partition": "gpu", "timeout_min": 90, "slurm_account": "nlp"}
    submitter = make_submitter(3, "cuda", settings, tmp_path / "logs")
    text = submitter._executor._make_submission_file_text("program", "one")
    wanted = [
        "--cpus-per-task=3",
        "--partition=gpu",
        "--time=90",
        "--account=nlp",
        "--gpus-per-node=1",
        "--job-name=graft",
    ]
    assert [f"#SBATCH {line}" in text for line in wanted] == [True] * len(wanted), text
    plain = make_submitter(1, "cpu", {}, tmp_path / "logs")._executor._make_submission_file_text("program", "one")
    assert "--gpus-per-node" not in plain


def test_a_machine_without_slurm_is_told_so(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"--executor slurm: .*srun"):
        make_submitter(1, "cpu", {}, tmp_path / "logs")
    with pytest.raises(RunError, match=r"--executor slurm: .*colour"):
        make_submitter(1, "cpu", {"cluster": "local", "colour": "red"}, tmp_path / "logs")


@pytest.mark.slow
def test_a_ray_worker_that_is_killed_does_no_harm(settings, by_one_worker, tmp_path):
    pytest.importorskip("ray")
    killed = []

    def kill_one(*_):
        """Kill an actor's process as soon as a run is there."""
        if not killed:
            for process in psutil.process_iter(["cmdline"]):
                if "ray::Carrier" in " ".join(process.info["cmdline"] or []) and _ours(process):
                    process.kill()
                    killed.append(process.pid)
                    break

    from graft.recipes import standing

    real = standing.Standing.on_finish

    def on_finish(self, *arguments):
        real(self, *arguments)
        kill_one()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standing.Standing, "on_finish", on_finish)
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        compare(settings, out=tmp_path, executor="ray", workers=2, costs=False)
    assert killed
    assert_same(tmp_path, by_one_worker)


def _ours(process):
    """Whether a process descends from this one: others may use Ray on the machine."""
    return any(parent.pid == os.getpid() for parent in process.parents())


def test_an_address_without_a_cluster_is_told(settings, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(RunError, match=r"--address 127.0.0.1:1: no Ray cluster"):
        compare(settings, out=tmp_path, executor="ray", address="127.0.0.1:1")


@pytest.mark.slow
def test_all_processes_of_a_launch_make_the_runs_together(settings, tmp_path):
    page = tmp_path / "compare.yaml"
    page.write_text(json.dumps(settings))
    # `--cpu --num_processes 2` silently runs one process; this form runs two (accelerate 1.15).
    launch = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
        *(str(SCRIPT), "--recipe", str(page), "--out", str(tmp_path / "runs"), "--costs", "false"),
    ]
    environment = ENVIRONMENT | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("comparison.json") == 1
    records = [read_record(path.parent) for path in (tmp_path / "runs").glob("*/record.json")]
    assert [record.hardware["processes"] for record in records] == [2] * 6
    assert len(read_comparison(tmp_path / "runs").results) == 2
