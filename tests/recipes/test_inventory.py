"""What there is to choose from is read from the tables: a new row or ability appears by itself."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from graft.adapters.checkpoint import MODELS, Alias, embedded
from graft.adapters.families import FAMILIES
from graft.adapters.methods import METHODS, Abilities
from graft.eval.tasks import TASKS
from graft.recipes import inventory


def printed(what: str, capsys: pytest.CaptureFixture[str], as_json: bool = False) -> str:
    assert inventory.main(what, as_json=as_json) == 0
    return capsys.readouterr().out


def line_of(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
    return line


def test_every_row_of_every_table_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for what, names in (("methods", METHODS), ("tasks", TASKS), ("models", {**MODELS, **FAMILIES})):
        text = printed(what, capsys)
        for name in names:
            assert line_of(text, name)
    assert [row["name"] for row in json.loads(printed("methods", capsys, as_json=True))] == list(METHODS)
    assert [row["name"] for row in json.loads(printed("tasks", capsys, as_json=True))] == list(TASKS)
    models = json.loads(printed("models", capsys, as_json=True))
    assert [row["name"] for row in models["aliases"]] == list(MODELS)
    assert [row["name"] for row in models["architectures"]] == list(FAMILIES)


def test_a_method_is_shown_with_its_rate_its_paper_and_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    line = line_of(printed("methods", capsys), "lora")
    for part in ("0.0005", "mergeable", "quantised base", "Hu et al. 2021, arXiv:2106.09685", "all"):
        assert part in line
    assert "mutates base" not in line
    assert "bert, electra, gpt2" in line_of(printed("methods", capsys), "prefix")


def test_an_ability_that_is_new_appears_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclasses.dataclass(frozen=True)
    class More(Abilities):
        flies: bool = True
        swims: bool = False
        kinds: frozenset[str] = frozenset({"b", "a"})

    row = dataclasses.replace(
        METHODS["lora"],
        name="bird",
        abilities=More(mergeable=False, quantised_base=False, families=frozenset({"bert"})),
    )
    monkeypatch.setitem(METHODS, "bird", row)
    line = line_of(printed("methods", capsys), "bird")
    assert "flies" in line
    assert "kinds: a, b" in line
    assert "swims" not in line
    assert "bert" in line
    listed = {found["name"]: found for found in inventory.methods()}["bird"]
    assert listed["families"] == ["bert"]
    assert listed["abilities"]["flies"] is True
    assert listed["abilities"]["swims"] is False
    assert listed["abilities"]["kinds"] == ["a", "b"]


def test_a_task_says_where_its_examples_come_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TASKS, "made", dataclasses.replace(TASKS["rte"], name="made", hub=None, make=dict))
    text = printed("tasks", capsys)
    mrpc = line_of(text, "mrpc")
    for part in ("classification", "f1, accuracy", "sentence1, sentence2, label", "nyu-mll/glue (mrpc)"):
        assert part in mrpc
    assert "generated" in line_of(text, "made")
    assert "your own data" in line_of(text, "text")


def test_an_alias_says_whether_its_files_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, away = Alias("us/here", "there-is-one", "model", {}), Alias("us/away", "there-is-none", "model", {})
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 3_000_000)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\n")
    monkeypatch.setattr(inventory, "MODELS", {"here": here, "away": away})
    monkeypatch.setattr(inventory, "embedded", lambda alias: tmp_path if alias is here else None)
    text = printed("models", capsys)
    assert line_of(text, "here").split() == ["here", "3", "MB", "apache-2.0", "us/here", "yes"]
    assert line_of(text, "away").split() == ["away", "us/away", "no:", "pip", "install", "there-is-none"]


def test_the_package_of_an_alias_is_found_without_importing_it() -> None:
    assert embedded(dataclasses.replace(MODELS["minilm"], distribution="there-is-none")) is None
    assert embedded(Alias("x", "pytest", "_pytest", {})).name == "_pytest"
    assert embedded(Alias("x", "pytest", "no_such_folder", {})) is None


@pytest.mark.parametrize("card", ["", "no front matter", "---\n[1\n---\n", "---\n- a\n---\n", "---\nname: x\n---\n"])
def test_a_model_card_without_a_licence_is_no_error(card: str, tmp_path: Path) -> None:
    assert inventory._licence(tmp_path / "none.md") is None
    (tmp_path / "README.md").write_text(card)
    assert inventory._licence(tmp_path / "README.md") is None


def test_a_piped_table_is_plain_text_with_one_line_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)
    inventory.print_table(("one", "two"), [("x" * 300, "[bold]"), ("y", "z\nz")], note="n " * 200)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "\x1b" not in "".join(lines)
    assert lines[1].split() == ["x" * 300, "[bold]"]
    assert not any(line.endswith(" ") for line in lines)


def test_a_reader_that_leaves_early_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        inventory.write_out("nobody reads this\n")
        stream.write("nor this")  # flushed when the stream is closed, which must not fail either
