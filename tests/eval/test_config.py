import subprocess
import sys

import pytest
from pydantic import ValidationError

from graft.eval.config import TaskConfig


def test_columns_may_be_written_with_a_comma_or_as_a_list():
    assert TaskConfig(text="a, b").text == ("a", "b")
    assert TaskConfig(text="a,b") == TaskConfig(text=["a", "b"]) == TaskConfig(text=("a", "b"))
    assert TaskConfig(metrics="f1,accuracy").metrics == ("f1", "accuracy")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hold_out", 0.2),
        ("holdout", -0.1),
        ("holdout", 1),
        ("train_size", 1),
        ("text", "a,b,c"),
        ("text", ""),
        ("kind", "ranking"),
        ("max_length", 3),
    ],
)
def test_what_makes_no_sense_is_refused_by_key(key, value):
    with pytest.raises(ValidationError) as raised:
        TaskConfig.model_validate({key: value})
    assert raised.value.errors()[0]["loc"] == (key,)


def test_every_field_says_what_it_is():
    assert not [name for name, field in TaskConfig.model_fields.items() if not field.description]


def test_the_config_is_read_without_importing_anything_heavy():
    heavy = "torch", "transformers", "datasets", "pyarrow", "sklearn", "scipy"
    code = f"import sys, graft.eval.config; sys.exit(' '.join(m for m in {heavy} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
