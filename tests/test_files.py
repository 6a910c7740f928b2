"""Files that are whole or absent, also where the system stops a write in the middle."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from graft.errors import GraftError
from graft.files import atomic_folder, write_atomically, write_json

LIMIT = 1000  # bytes


@contextmanager
def short_files() -> Iterator[None]:
    """Let no file grow longer than the limit, as a full disk would: not even a report of pytest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def fill_by_hand(folder: Path) -> None:
    (folder / "part").write_bytes(bytes(10 * LIMIT))


def fill_with_tensors(folder: Path) -> None:
    save_file({"weight": torch.zeros(10 * LIMIT)}, folder / "part.safetensors")


def fill_with_json(folder: Path) -> None:
    write_json(folder / "part.json", "long" * LIMIT)


@pytest.mark.parametrize("fill", [fill_by_hand, fill_with_tensors, fill_with_json])
def test_a_folder_that_cannot_be_written_leaves_the_old_one_and_says_what_to_do(tmp_path, fill):
    place = tmp_path / "deep" / "folder"
    with atomic_folder(place) as folder:
        (folder / "old").write_text("old")

    def replace() -> None:
        with atomic_folder(place) as folder:
            (folder / "small").write_text("new")
            fill(folder)

    with (
        pytest.raises(GraftError, match=rf"^{place}: cannot write \(File too large\); free some space or choose"),
        short_files(),
    ):
        replace()
    assert [path.name for path in place.parent.iterdir()] == ["folder"]
    assert [path.name for path in place.iterdir()] == ["old"]


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_says_what_to_do(tmp_path):
    place = tmp_path / "deep" / "file"
    write_atomically(place, "old")
    with (
        pytest.raises(GraftError, match=rf"^{place}: cannot write \(File too large\); free some space or choose"),
        short_files(),
    ):
        write_atomically(place, bytes(10 * LIMIT))
    assert [path.name for path in place.parent.iterdir()] == ["file"]
    assert place.read_text() == "old"


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "below"
    with pytest.raises(GraftError, match=rf"^{place}: cannot write \(File exists\)"):
        write_atomically(place, "new")
    with pytest.raises(GraftError, match=rf"^{place}: cannot write \(File exists\)"), atomic_folder(place):
        pass


def test_an_error_of_another_kind_is_not_blamed_on_the_disk(tmp_path):
    from safetensors.torch import load_file

    (tmp_path / "damaged").write_bytes(b"damaged")
    with pytest.raises(Exception, match="header"), atomic_folder(tmp_path / "folder"):
        load_file(tmp_path / "damaged")
    with pytest.raises(GraftError, match=r"^mine$"), atomic_folder(tmp_path / "folder"):
        raise GraftError("mine")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_what_is_replaced_is_gone_and_others_may_read_the_new_as_they_might_any_file(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").write_text("")
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "folder") as folder:
            write_atomically(folder / content, content)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "plain"]
    assert [path.read_text() for path in (tmp_path / "folder").iterdir()] == ["new"]
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "folder" / "new").stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode
