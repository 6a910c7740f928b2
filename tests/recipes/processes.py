"""Launched by tests: trains the recipes of a JSON file one after the other, each with a term of its own if asked.

Arguments: a JSON list of [recipe, with term], the output folder, the number of processes that there must be, and
optionally `--resume`.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from accelerate import PartialState
from domain_term import DomainTerm

from graft import Recipe, train
from graft.recipes.options import RunOptions

if __name__ == "__main__":
    page, out, processes, *rest = sys.argv[1:]
    assert PartialState(cpu=True).num_processes == int(processes), "not launched as many processes as asked"
    options = RunOptions(out=Path(out), quiet=True, resume="--resume" in rest, checkpoint_steps=1)
    for recipe, with_term in json.loads(Path(page).read_text()):
        terms = [DomainTerm()] if with_term else []
        train(Recipe.model_validate(recipe), options=options, terms=terms)
