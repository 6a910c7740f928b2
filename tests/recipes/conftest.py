"""What tests of comparisons share: who does the jobs, and a small comparison."""

import pytest
from comparing import METHODS, Here

from graft.recipes import compare as compare_module


@pytest.fixture
def here(monkeypatch):
    executor = Here()
    monkeypatch.setattr(compare_module, "_executor", lambda *_: executor)
    return executor


@pytest.fixture
def settings(tiny_bert, word_task):
    return {
        "task": {"name": "words", "data": str(word_task), "text": "text", "label": "label", "max_length": 24},
        "model": str(tiny_bert),
        "methods": METHODS,
        "seeds": 2,
        "trials": 2,
        "margin": 5.0,
        "schedule": {"steps": 3, "examples": 8},
        "speed": {"precision": "fp32"},
    }
