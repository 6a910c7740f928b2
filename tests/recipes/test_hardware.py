"""What a recipe leaves to the machine does not depend on how the program was launched."""

import pytest

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

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert hardware.precision() == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    assert hardware.precision() == "fp32"
