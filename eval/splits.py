"""Which examples are for what: subsets and holdouts that are grouped, stratified, nested and stable.

Everything follows from one order: within each label, items are sorted by a hash of their content and the seed, so an
added row never reshuffles the others; the labels then take turns in proportion to their size. A subset or a holdout
is a prefix of that order.
"""

import hashlib
import struct
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graft.eval.stored_texts import StoredTexts, Texts

Labels = NDArray[Any]


def content_fingerprint(texts: Iterable[Texts], labels: Labels | None) -> str:
    """Hash texts and labels in order, whatever file or rows they came from.

    Args:
        texts: One tuple of columns per example.
        labels: int64 or float32 (examples,), or none.

    Returns:
        64 lower-case hexadecimal digits.
    """
    digest = hashlib.sha256()
    for columns in texts:
        digest.update(struct.pack("<q", len(columns)))
        for text in columns:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(struct.pack("<q", len(encoded)))
            digest.update(encoded)
    if labels is not None:
        digest.update(labels.dtype.str.encode())
        digest.update(np.ascontiguousarray(labels).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """Examples that are used for one purpose.

    Attributes:
        name: "train", "holdout" or a validation split's name.
        source: Split of the data that `ids` count in; a holdout's is "train".
        ids: int64 (examples,), row numbers in the source split.
        texts: One tuple of text columns per example, stored outside of Python's memory.
        labels: int64 class numbers or float32 scores (examples,); none for plain text.
        fingerprint: Hash of texts and labels in order.
    """

    name: str
    source: str
    ids: NDArray[np.int64]
    texts: Sequence[Texts]
    labels: Labels | None
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        """Store the texts, and fingerprint the content."""
        if not isinstance(self.texts, StoredTexts):
            object.__setattr__(self, "texts", StoredTexts(self.texts))
        object.__setattr__(self, "fingerprint", content_fingerprint(self.texts, self.labels))

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.texts)

    def take(self, rows: NDArray[np.int64], name: str) -> "Split":
        """The examples at these positions, in their order, as a split of another name."""
        labels = None if self.labels is None else self.labels[rows]
        return Split(name, self.source, self.ids[rows], StoredTexts(self.texts[row] for row in rows), labels)


def hash_order(keys: Sequence[str], seed: int, purpose: str) -> NDArray[np.int64]:
    """Order items by a hash of their key, so that the order of two items depends on those two alone.

    Args:
        keys: Content of each item; equal keys keep the order they come in.
        seed: Changes the order.
        purpose: Makes orders of different use independent of each other.

    Returns:
        int64 (items,), positions in order.
    """
    salt = hashlib.blake2b(f"{purpose}:{seed}".encode(), digest_size=16).digest()
    hashes = [hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, key=salt).digest() for key in keys]
    return np.array(sorted(range(len(keys)), key=hashes.__getitem__), dtype=np.int64)


def take_turns(sizes: Sequence[int], count: int) -> list[int]:
    """Let strata take turns so that every prefix is proportional to within one item.

    The chairman assignment of Tijdeman (1980), "The chairman assignment problem", Discrete Mathematics 32: after every
    n turns, stratum s has had n * sizes[s] / sum(sizes) of them, give or take less than 1.

    Args:
        sizes: Items in each stratum, all positive.
        count: Turns to hand out, at most sum(sizes).

    Returns:
        The stratum of each turn, `count` of them.
    """
    strata, total = len(sizes), sum(sizes)
    if strata == 1:
        return [0] * count
    # Scaled by total * (2 * strata - 2), so that the arithmetic is exact in integers.
    scale = 2 * strata - 2
    taken = [0] * strata
    turns = []
    for turn in range(1, count + 1):
        owed = [scale * (sizes[s] * turn - taken[s] * total) for s in range(strata)]
        eligible = [s for s in range(strata) if owed[s] >= total]
        # The eligible stratum whose deadline comes first; ties go to the lower number.
        chosen = min(eligible, key=lambda s: (((scale - 1) * total - owed[s]) / sizes[s], s))
        taken[chosen] += 1
        turns.append(chosen)
    return turns


def stratified_prefix(
    keys: Sequence[str], strata: Sequence[int], count: int, seed: int, purpose: str
) -> NDArray[np.int64]:
    """Choose `count` items in proportion to the strata; a smaller choice is a prefix of a larger one.

    Args:
        keys: Content of each item.
        strata: Stratum number of each item.
        count: Items to choose.
        seed: Changes the choice.
        purpose: Makes choices of different use independent of each other.

    Returns:
        int64 (count,), positions in the order of choice. Each stratum's share is proportional to within one item.
    """
    queues: dict[int, list[int]] = {stratum: [] for stratum in sorted(set(strata))}
    for position in hash_order(keys, seed, purpose):
        queues[strata[position]].append(int(position))
    ordered = list(queues.values())
    heads = [iter(queue) for queue in ordered]
    chosen = [next(heads[stratum]) for stratum in take_turns([len(queue) for queue in ordered], count)]
    return np.array(chosen, dtype=np.int64)


def label_strata(labels: Labels | None, examples: int) -> list[int]:
    """Stratum of each example: its class, or its score rounded, if that gives at most 10 strata.

    Args:
        labels: int64 or float32 (examples,), or none.
        examples: How many there are.

    Returns:
        A stratum number per example; all 0 where there is nothing to stratify by.
    """
    if labels is None:
        return [0] * examples
    if np.issubdtype(labels.dtype, np.integer):
        return [int(label) for label in labels]
    rounded = np.rint(labels)  # fixed bins: quantiles would move with every added row
    if len(np.unique(rounded)) > 10:
        return [0] * examples
    return [int(label) for label in rounded]


def nested_subset(texts: Sequence[Texts], labels: Labels | None, size: int, seed: int) -> NDArray[np.int64]:
    """Choose `size` examples, stratified by label; a smaller subset lies inside a larger one.

    Args:
        texts: One tuple of columns per example.
        labels: int64 or float32 (examples,), or none.
        size: Examples to choose, at most as many as there are.
        seed: Changes the choice.

    Returns:
        int64 (size,), rising positions.
    """
    strata = label_strata(labels, len(texts))
    return np.sort(stratified_prefix(["\x1f".join(text) for text in texts], strata, size, seed, "subset"))


def joined_groups(columns: Sequence[Sequence[Hashable]]) -> list[str]:
    """Put examples that share a value in any column into one group, however long the chain between them.

    Args:
        columns: Values of each example, one sequence of (examples,) per column; a value counts as the same wherever it
            stands, so that a sentence that is first here and second there joins the two. Where it should not, as a
            user's number is not a document's, hand in pairs of column and value.

    Returns:
        The group of each example, named by the smallest value in it; for a single column, that column.
    """
    examples = len(columns[0])
    numbers: dict[Hashable, int] = {}
    values = np.array([numbers.setdefault(value, len(numbers)) for column in columns for value in column])
    rows = np.tile(np.arange(examples), len(columns))
    size = examples + len(numbers)  # a graph of examples and values
    edges = coo_array((np.ones(len(rows), dtype=bool), (rows, examples + values)), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    smallest: dict[int, str] = {}
    for value, number in numbers.items():
        found = int(component[examples + number])
        smallest[found] = min(smallest.get(found, str(value)), str(value))
    return [smallest[int(found)] for found in component[:examples]]


def group_holdout(
    groups: Sequence[Hashable], labels: Labels | None, fraction: float, seed: int, purpose: str = "holdout"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide examples so that no group is on both sides, stratified by each group's most frequent label.

    A group that is larger than all of the holdout is meant to be stays with the others, unless all groups are.

    Args:
        groups: Group of each example; equal values belong together.
        labels: int64 or float32 (examples,), or none.
        fraction: Part of the groups that is held out, rounded to the nearest number of groups, at least one.
        seed: Changes the choice.
        purpose: Makes divisions of different use independent of each other.

    Returns:
        Rising positions of the examples that stay, and of those held out; the first is empty for a single group.
    """
    members: dict[str, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(str(group), []).append(position)
    strata = label_strata(labels, len(groups))
    count = max(1, round(fraction * len(members)))
    room = max(1, round(fraction * len(groups)))
    keys = [key for key, rows in members.items() if len(rows) <= room] or list(members)
    count = min(len(keys), count)
    group_strata = [_majority([strata[row] for row in members[key]]) for key in keys]
    held = {keys[position] for position in stratified_prefix(keys, group_strata, count, seed, purpose)}
    outside = np.array([str(group) in held for group in groups], dtype=bool)
    return np.flatnonzero(~outside).astype(np.int64), np.flatnonzero(outside).astype(np.int64)


def _majority(strata: Sequence[int]) -> int:
    """The most frequent number, the lowest of those that tie."""
    return min(set(strata), key=lambda stratum: (-strata.count(stratum), stratum))
