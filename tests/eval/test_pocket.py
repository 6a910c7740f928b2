import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from graft.eval.kinds import KINDS
from graft.eval.metrics import METRICS
from graft.eval.pocket import SUITE, generate
from graft.eval.pocket.building import build
from graft.eval.pocket.draws import Draws, divide
from graft.eval.pocket.english import SHARED, sentence, with_article, words_of
from graft.files import fingerprint

FINGERPRINTS = {
    "pocket/acceptability": "3f0a6da4f9813594",
    "pocket/sentiment": "4bbbedf7920eac58",
    "pocket/sentiment-films": "8c41d9fd7a815f49",
    "pocket/sentiment-food": "e0473a6f3ffbe33c",
    "pocket/sentiment-gadgets": "39bb4b4349f2bfb6",
    "pocket/sentiment-travel": "e865c1400b7bb771",
    "pocket/paraphrase": "6188c2f70041a984",
    "pocket/similarity": "89db21aed20009a9",
    "pocket/entailment": "f40a1b8d14f6b2c1",
    "pocket/answerability": "cb9896e03c826dd7",
}

ENDINGS = ("ing", "ed", "es", "er", "ly", "s")


@pytest.fixture(scope="module")
def tables():
    return {name: generate(name) for name in SUITE}


def texts(name, table):
    return list(zip(*(table.values(column) for column in SUITE[name].text), strict=True))


def content_words(name, table):
    return {word for row in texts(name, table) for text in row for word in words_of(text)} - SHARED


def uninflected(word):
    return next((word.removesuffix(end) for end in ENDINGS if word.endswith(end) and len(word) > len(end) + 3), word)


def shape(row):
    """What one sees without knowing a content word: the shared words, and where everything stands."""
    tokens = []
    for column, text in enumerate(row):
        words = [word if word in SHARED else "X" for word in words_of(text)]
        tokens += [f"{column}:{word}" for word in words]
        tokens += [f"{column}@{place}:{word}" for place, word in enumerate(words)]
        tokens += [f"{column}:{first}_{second}" for first, second in itertools.pairwise(words)]
        tokens.append(f"{column}#{len(words)}")
    return " ".join(tokens)


@pytest.mark.parametrize("name", SUITE)
def test_the_same_seed_gives_the_same_bytes_everywhere(name, tables):
    found = {part: [texts(name, table), table.values("label")] for part, table in tables[name].items()}
    assert fingerprint(found)[:16] == FINGERPRINTS[name]


def test_another_seed_holds_out_other_words(tables):
    name = "pocket/paraphrase"
    assert content_words(name, tables[name]["validation"]) != content_words(name, generate(name, seed=1)["validation"])


@pytest.mark.parametrize("name", SUITE)
def test_rows_are_complete_and_of_the_size_they_declare(name, tables):
    row = SUITE[name]
    assert row.name == name
    assert row.kind in KINDS
    assert all(row.kind in METRICS[metric].kinds for metric in row.metrics)
    assert bool(row.label_names) == (row.kind == "classification")
    assert tuple(len(table) for table in tables[name].values()) == row.sizes
    assert 1000 <= row.sizes[0] <= 4000
    assert row.sizes[1] == 1000
    for table in tables[name].values():
        assert table.columns == [*row.text, row.label]
        assert table.class_names == ({row.label: row.label_names} if row.label_names else {})


@pytest.mark.parametrize("name", SUITE)
def test_labels_are_balanced(name, tables):
    for table in tables[name].values():
        labels = table.values("label")
        if SUITE[name].kind == "regression":
            assert min(labels) == 0
            assert max(labels) == 5
            assert 2 < np.mean(labels) < 3
        else:
            counts = Counter(labels)
            assert sorted(counts) == list(range(len(SUITE[name].label_names)))
            assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("name", SUITE)
def test_the_validation_split_uses_no_content_word_of_the_training_split(name, tables):
    train, validation = (content_words(name, tables[name][part]) for part in ("train", "validation"))
    assert len(validation) > 60
    assert not train & validation
    # "hat" and "hated" are no forms of one word.
    unrelated = {"hat", "hate"}
    assert not {uninflected(word) for word in train} & {uninflected(word) for word in validation} - unrelated


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name in SUITE if "-" not in name])
def test_words_are_held_out_for_every_seed(name, seed):
    tables = generate(name, seed=seed)
    assert not content_words(name, tables["train"]) & content_words(name, tables["validation"])


@pytest.mark.parametrize("name", SUITE)
def test_no_example_repeats(name, tables):
    rows = [row for table in tables[name].values() for row in texts(name, table)]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("name", SUITE)
def test_nothing_but_content_words_gives_the_label_away(name, tables):
    """A linear model of shared words, their places, pairs of neighbours and lengths stays at chance."""
    row = SUITE[name]
    vectorizer = CountVectorizer(token_pattern=r"\S+", min_df=3)
    train, validation = (
        [shape(example) for example in texts(name, tables[name][part])] for part in ("train", "validation")
    )
    features, held_out = vectorizer.fit_transform(train), vectorizer.transform(validation)
    labels, truth = (np.array(tables[name][part].values("label")) for part in ("train", "validation"))
    if row.kind == "regression":
        assert abs(np.corrcoef(Ridge(10.0).fit(features, labels).predict(held_out), truth)[0, 1]) < 0.1
    else:
        model = LogisticRegression(C=0.1, max_iter=500).fit(features, labels)
        assert abs(model.score(held_out, truth) - 1 / len(row.label_names)) < 0.06


@pytest.mark.parametrize("name", [name for name, row in SUITE.items() if len(row.text) == 2])
def test_the_number_of_repeated_content_words_does_not_tell_the_label(name, tables):
    for table in tables[name].values():
        repeated = [len({*words_of(first)} & {*words_of(second)} - SHARED) for first, second in texts(name, table)]
        if len(set(repeated)) > 1:
            assert abs(np.corrcoef(repeated, table.values("label"))[0, 1]) < 0.1


@pytest.mark.parametrize("name", SUITE)
def test_examples_are_written_as_sentences(name, tables):
    for table in tables[name].values():
        for row in texts(name, table):
            for text in row:
                assert text[0].isupper() or text[0].isdigit()
                assert text[-1] in ".?"
                assert "  " not in text
                assert " ," not in text
                assert "{" not in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("apple", "an apple"),
        ("useful hat", "a useful hat"),
        ("ugly hat", "an ugly hat"),
        ("hour", "an hour"),
        ("honest man", "an honest man"),
        ("uncle", "an uncle"),
        ("uniform", "a uniform"),
        ("unimpressed man", "an unimpressed man"),
        ("uninteresting book", "an uninteresting book"),
        ("ukulele", "a ukulele"),
        ("one-way road", "a one-way road"),
        ("house", "a house"),
        ("European", "a European"),
        ("used car", "a used car"),
        ("oak", "an oak"),
    ],
)
def test_articles_follow_the_sound(words, expected):
    assert with_article(words) == expected


def test_a_sentence_begins_with_a_capital_and_ends_once():
    assert sentence("near the  sea , it rains") == "Near the sea, it rains."
    assert sentence("why?") == "Why?"


def test_the_shares_of_a_list_are_all_of_it_and_disjoint():
    words = [f"word{number}" for number in range(40)]
    train, validation = (divide(words, part, "list", 0) for part in ("train", "validation"))
    assert sorted(train + validation) == sorted(words)
    assert len(validation) == 14
    assert divide(words, "train", "another list", 0) != train


def test_draws_are_the_same_on_every_platform():
    draws = Draws("task", 0)
    assert [draws.below(100) for _ in range(5)] == [75, 68, 48, 22, 37]
    assert Draws("task", 0).sample("abcdef", 3) == ["e", "a", "d"]


def test_draws_are_even():
    draws = Draws("even")
    counts = Counter(draws.below(4) for _ in range(4000))
    assert max(abs(count - 1000) for count in counts.values()) < 130
    first = Counter(draws.sample("abcd", 2)[0] for _ in range(4000))
    assert max(abs(count - 1000) for count in first.values()) < 130


def test_too_few_words_are_refused():
    class Poor:
        def example(self, level, draws):
            return ("The only sentence.",), level

    with pytest.raises(RuntimeError, match="only 1 of 2"):
        build(Poor(), 2, 2, Draws("poor"))


def test_the_suite_is_imported_without_torch():
    code = "import sys, graft.eval.pocket; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
