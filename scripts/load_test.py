"""Ask `graft serve` from several clients at once, on this machine alone, and write the table in docs/serving.md.

    python scripts/load_test.py RUN --sentences FILE.parquet [--requests 300] [--seconds 30] [--threads 1] [--write]

Each client keeps one connection and asks for one sentence after another. A level ends after so many requests, or so
many seconds, whichever comes first.
"""

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import numpy as np
import pyarrow.parquet
from page_parts import machine, replace_part

PAGE = Path(__file__).resolve().parent.parent / "docs" / "serving.md"
CLIENTS = (1, 4, 16)
WARM = 20


@contextmanager
def served(run: Path, threads: int) -> Iterator[int]:
    """Serve a run on a free port while the block lasts."""
    command = [sys.executable, "-m", "graft", "serve", str(run), "--port", "0"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line.startswith("serving: "):
            raise SystemExit("the service did not start")
        try:
            yield int(line.rpartition(":")[2])
        finally:
            process.send_signal(signal.SIGTERM)
            if process.wait(60):
                raise SystemExit(f"the service ended with exit code {process.returncode}")


def ask(port: int, bodies: list[bytes], requests: int, until: float) -> list[float]:
    """Ask again and again over one connection; give the seconds that each answer took."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    found: list[float] = []
    for _, body in zip(range(requests), cycle(bodies), strict=False):
        started = time.perf_counter()
        if started > until:
            break
        connection.request("POST", "/predict", body, {"content-type": "application/json"})
        answered = connection.getresponse()
        answered.read()
        if answered.status != 200:
            raise SystemExit(f"the service answered {answered.status}")
        found.append(time.perf_counter() - started)
    connection.close()
    return found


def level(port: int, bodies: list[bytes], clients: int, requests: int, seconds: float) -> tuple[list[float], float]:
    """Ask from several clients at once; give all latencies and requests per second."""
    latencies: list[list[float]] = [[] for _ in range(clients)]
    started = time.perf_counter()

    def work(number: int) -> None:
        latencies[number] = ask(port, bodies[number:], requests // clients, started + seconds)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [latency for each in latencies for latency in each]
    return found, len(found) / (time.perf_counter() - started)


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of a task of single texts")
    parser.add_argument("--sentences", type=Path, required=True, help="a parquet file with a column sentence")
    parser.add_argument("--requests", type=int, default=300, help="of each level, at most")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each level, at most")
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--write", action="store_true", help="write docs/serving.md's table")
    given = parser.parse_args()
    sentences = pyarrow.parquet.read_table(given.sentences)["sentence"].to_pylist()
    bodies = [json.dumps({"inputs": sentence}).encode() for sentence in sentences]
    lines = ["| clients | requests | requests per second | p50, ms | p95, ms |", "|---|---|---|---|---|"]
    with served(given.run, given.threads) as port:
        ask(port, bodies, WARM, time.perf_counter() + given.seconds)
        for clients in CLIENTS:
            found, rate = level(port, bodies, clients, given.requests, given.seconds)
            half, most = np.percentile(np.array(found) * 1000, [50, 95])
            lines.append(f"| {clients} | {len(found)} | {rate:.0f} | {half:.0f} | {most:.0f} |")
    model = json.loads((given.run / "record.json").read_text())["recipe"]["model"]["name"]
    lines += ["", f"{model}, sentences of {given.sentences.parent.name}; {machine(given.threads)}."]
    if given.write:
        replace_part(PAGE, "load test", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
