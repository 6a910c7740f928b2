"""What a recipe leaves to the machine does not depend on how the program was launched."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from graft.errors import RecipeError
from graft.recipes import hardware


def test_threads_do_not_depend_on_what_launchers_set(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = hardware.threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert hardware.threads() == alone >= 1


@pytest.mark.parametrize(("cores", "processes", "each"), [(8, 1, 8), (8, 2, 4), (2, 4, 1)])
def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, each: int) -> None:
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(hardware.psutil, "cpu_count", lambda logical: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert hardware.threads() == each


def test_bf16_is_chosen_only_where_the_processor_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert hardware.precision("cpu") == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    assert hardware.precision("cpu") == "fp32"


def test_accelerates_switch_keeps_a_run_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    assert hardware.device() == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert hardware.device() == "cpu"


def test_bf16_on_a_gpu_needs_hardware_that_does_not_emulate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert hardware.precision("cuda") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert hardware.precision("cuda") == "bf16"
    assert hardware.precision("mps") == "fp32"


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    hardware.check_device("cpu")
    hardware.check_device("cuda")
    with pytest.raises(RecipeError, match="device: mps is not available here; there is cpu and cuda"):
        hardware.check_device("mps")


def test_the_peak_of_a_process_is_not_its_parents() -> None:
    held = bytearray(400 << 20)  # touched, as zeros are written
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    assert hardware.peak_memory("cpu") > len(held)
    code = "from graft.recipes.hardware import peak_memory; print(peak_memory('cpu'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 << 20


def groups(folder: Path, named: str, files: dict[str, str]) -> dict[str, Path]:
    """Write control groups, and the page that names a process's own."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    (folder / "named").write_text(named)
    return {"control": folder, "process": folder / "named"}


@pytest.fixture
def a_thousand_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))


@pytest.mark.usefixtures("a_thousand_free")
@pytest.mark.parametrize(
    ("named", "files", "free"),
    [
        ("0::/job\n", {"job/memory.max": "900\n", "job/memory.current": "200\n"}, 700),
        (
            "0::/job\n",
            {
                "job/memory.max": "900",
                "job/memory.current": "200",
                "job/memory.stat": "anon 60\nfile 90\ninactive_file 50\n",
            },
            750,
        ),
        ("0::/job\n", {"job/memory.max": "max\n", "job/memory.current": "200\n"}, 1000),
        ("0::/job\n", {"job/memory.max": "9000\n", "job/memory.current": "200\n"}, 1000),
        ("0::/job\n", {"job/memory.max": "100\n", "job/memory.current": "200\n"}, 0),
        (
            "0::/all/job\n",
            {
                "all/memory.max": "500",
                "all/memory.current": "450",
                "all/job/memory.max": "900",
                "all/job/memory.current": "200",
            },
            50,
        ),
        ("0::/outside/of/the/container\n", {"memory.max": "900", "memory.current": "200"}, 700),
        (
            "5:cpu,memory:/job\n0::/\n",
            {"memory/job/memory.limit_in_bytes": "600", "memory/job/memory.usage_in_bytes": "200"},
            400,
        ),
        (
            "4:memory:/job\n",
            {
                "memory/job/memory.limit_in_bytes": "600",
                "memory/job/memory.usage_in_bytes": "200",
                "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 30\n",
            },
            430,
        ),
        ("4:cpu:/job\n", {"memory/job/memory.limit_in_bytes": "6", "memory/job/memory.usage_in_bytes": "2"}, 1000),
    ],
)
def test_a_containers_limit_counts_as_much_as_the_machines(
    tmp_path: Path, named: str, files: dict[str, str], free: int
) -> None:
    assert hardware.free_memory(**groups(tmp_path, named, files)) == free


@pytest.mark.usefixtures("a_thousand_free")
def test_without_control_groups_the_machines_memory_counts(tmp_path: Path) -> None:
    assert hardware.free_memory(tmp_path, tmp_path / "none") == 1000


def test_seeding_a_processor_asks_no_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    asked: list[int] = []
    for module in (torch.cuda, torch.xpu):
        monkeypatch.setattr(module, "manual_seed_all", asked.append)
    hardware.seed(torch.device("cpu"), 7)
    assert not asked
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(7)))


def test_a_device_is_seeded_beside_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seeds: list[int] = []
    monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace(manual_seed=seeds.append))
    hardware.seed(torch.device("cuda"), 7)
    drawn = torch.rand(3)
    assert seeds == [7]
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7)))
