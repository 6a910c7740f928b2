"""What is built and installed: all modules and recipe files, usable away from the repository."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FOLDERS = ("adapters", "eval", "recipes")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def shipped() -> set[str]:
    """What a wheel must hold, read from the folders themselves."""
    files = {f"graft/{file.name}" for file in (ROOT / "src" / "graft").glob("*.py")} | {"graft/py.typed"}
    for folder in FOLDERS:
        files |= {f"graft/{file.relative_to(ROOT)}" for file in (ROOT / folder).rglob("*.py")}
    others = [*(ROOT / "recipes" / "configs").glob("*.yaml"), *(ROOT / "eval" / "report" / "templates").iterdir()]
    return files | {f"graft/{file.relative_to(ROOT)}" for file in others}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_import_name_is_a_link_to_the_folder(folder: str) -> None:
    link = ROOT / "src" / "graft" / folder
    assert link.is_symlink()
    assert link.resolve() == ROOT / folder


def test_no_script_shadows_another_package_when_it_is_launched_by_path() -> None:
    # Launched by path, a script's folder comes first on sys.path: recipes/evaluate.py would hide Hugging Face's.
    stems = {file.stem for file in (ROOT / "recipes").glob("*.py")} - {"__init__"}
    ours = {"graft", *FOLDERS}
    taken = (set(sys.stdlib_module_names) | set(metadata.packages_distributions())) - ours
    assert stems & taken == set()


def test_every_dependency_has_a_tested_version_within_its_range() -> None:
    tested = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    tested = {canonicalize_name(name): version for name, version in tested.items()}
    extras = PROJECT["optional-dependencies"]
    for text in (*PROJECT["dependencies"], *extras["embedded"], *extras["dev"]):
        requirement = Requirement(text)
        if requirement.name == "setuptools":  # what is frozen leaves it out
            continue
        assert requirement.specifier.contains(tested[canonicalize_name(requirement.name)]), text
    assert tested["torch"] == "2.13.0"


def test_every_package_that_is_imported_is_a_declared_dependency() -> None:
    imported = set()
    for folder in (*FOLDERS, "src/graft"):
        for file in (ROOT / folder).glob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                imported |= {name.partition(".")[0] for name in names}
    distributions = metadata.packages_distributions()
    extras = PROJECT["optional-dependencies"]
    optional = (
        *extras["search"],
        *extras["ray"],
        *extras["slurm"],
        *extras["serve"],
        *extras["notebook"],
    )  # imported where they are asked for
    declared = {canonicalize_name(Requirement(text).name) for text in (*PROJECT["dependencies"], *optional)}
    foreign = {name for name in imported if name in distributions and name not in {"graft", *FOLDERS}}
    missing = {name for name in foreign if not {canonicalize_name(d) for d in distributions[name]} & declared}
    assert missing == set()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build source distribution and, from it, the wheel, in a copy of the repository."""
    place = tmp_path_factory.mktemp("build")
    copy = place / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (*FOLDERS, "src"):
        ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "dist"


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_recipe_file_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("graft_nlp-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "graft = graft.cli:main" in archive.read(entry_points).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert names == shipped()


@pytest.mark.slow
def test_the_source_distribution_holds_every_module_and_recipe_file(built: Path) -> None:
    (source,) = built.glob("graft_nlp-*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in shipped()} <= names


@pytest.mark.slow
def test_the_wheel_installed_elsewhere_runs_a_recipe(
    built: Path, tiny_bert: Path, word_task: Path, tmp_path: Path
) -> None:
    (wheel,) = built.glob("graft_nlp-*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    where = [sys.executable, "-c", "import graft; print(graft.__file__)"]
    found = subprocess.run(where, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    assert Path(found.stdout.strip()).is_relative_to(site)
    flags = ["--data", str(word_task), "--task.text", "text", "--task.label", "label", "--model", str(tiny_bert)]
    flags += ["--method", "lora", "--schedule.steps", "3", "--task.max_length", "24", "--threads", "1"]
    command = [sys.executable, "-m", "graft.recipes.classify", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    folder = done.stdout.splitlines()[-1].removeprefix("run: ")
    record = json.loads((tmp_path / folder / "record.json").read_text())
    assert record["recipe"]["method"]["name"] == "lora"
    assert len(record["losses"]) == 3
