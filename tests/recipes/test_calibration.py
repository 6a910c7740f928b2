"""How long a run will take, told from a few steps: what is computed counts, and what is looked up does not."""

import pytest

from graft.recipes import calibration
from graft.recipes.calibration import calibrate
from graft.recipes.recipe import resolved
from graft.recipes.stock import Stock


@pytest.mark.parametrize(("method", "times"), [("full", 4.0), ("lora", 4.0), ("probe", 1.0)])
def test_more_epochs_take_longer_unless_the_first_one_computes_all_there_is(tiny_recipe, monkeypatch, method, times):
    monkeypatch.setattr(calibration.Trial, "take", lambda self, rows: 1.0)
    short, long = (
        calibrate(resolved(tiny_recipe(method, schedule={"epochs": epochs})), Stock())["seconds"] for epochs in (2, 8)
    )
    assert long / short == pytest.approx(times)
