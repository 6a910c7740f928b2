"""The programs that `bench.py` runs against each other: graft, transformers' Trainer with peft, and a bare loop.

All of them train on the same examples with the same dropout rates, batch size and longest sequence. A segment is some
steps of an epoch over all of those examples, since how long a step's examples are depends on what an epoch has to
choose from. Its clock runs from the first step's beginning to the last one's end, data loading included, and stands
still while others have their turns.
"""

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graft.adapters.loading import load_tokenizer
from graft.recipes import hardware
from graft.recipes.building import Materials, build, gather
from graft.recipes.flags import parse
from graft.recipes.frozen import Frozen
from graft.recipes.step import settle, train_step

EXAMPLES = 32
LONGEST = 128
PEER_RATE = 1e-4
"""Learning rate of all: speed does not depend on it."""


@dataclass(frozen=True)
class Segment:
    """What some steps took.

    Attributes:
        seconds: Wall-clock time of the steps.
        examples: Examples in them.
        tokens: Their tokens, padding left out.
        padded: Their tokens, padding counted.
    """

    seconds: float
    examples: int
    tokens: int
    padded: int


@dataclass
class Counted:
    """What went into the steps of a segment so far; as for `Segment`."""

    examples: int = 0
    tokens: int = 0
    padded: int = 0

    def add(self, tokens: int, padded: int, examples: int) -> None:
        """Count a batch."""
        self.tokens += tokens
        self.padded += padded
        self.examples += examples

    def add_batch(self, batch: Mapping[str, Tensor]) -> None:
        """Count a batch as transformers takes it."""
        mask = batch["attention_mask"]
        self.add(int(mask.sum()), mask.numel(), len(mask))

    def segment(self, seconds: float) -> Segment:
        """Put what was counted beside what it took."""
        return Segment(seconds, self.examples, self.tokens, self.padded)


class Watch:
    """The time of a segment's steps, which stands still between turns."""

    def __init__(self, steps: int, turn: int, wait: Callable[[], None], finish: Callable[[], None]) -> None:
        """Begin at nought.

        Args:
            steps: Of the segment.
            turn: Steps after which others have theirs.
            wait: Returns when the next turn is on.
            finish: Returns when the device has done all that it was given.
        """
        self.seconds = 0.0
        self._steps, self._turn, self._wait, self._finish = steps, turn, wait, finish
        self._taken, self._started = 0, 0.0

    def begin(self) -> None:
        """Wait for the first turn."""
        self._go()

    def step(self) -> None:
        """Count a step; at the end of a turn, stop until the next one is on."""
        self._taken += 1
        if self._taken == self._steps:
            self._stop()
        elif self._taken % self._turn == 0:
            self._stop()
            self._go()

    def _stop(self) -> None:
        self._finish()
        self.seconds += time.perf_counter() - self._started

    def _go(self) -> None:
        self._finish()
        self._wait()
        self._started = time.perf_counter()


class Contestant(ABC):
    """A program that trains on given examples, segment by segment."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """Prepare the data.

        Args:
            settings: A recipe by dotted names, as graft takes it; peers read off it what they are to do.
        """
        flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self.materials: Materials = gather(parse(flags, "bench.py").recipe)
        self.recipe = self.materials.recipe
        self.train = self.materials.encoded["train"]
        torch.set_num_threads(self.recipe.threads or torch.get_num_threads())

        self.taken = 0
        """Segments so far."""

    @property
    def order(self) -> int:
        """A seed of the order of a segment's steps: another one in each, and for each seed of the recipe."""
        return self.taken + 1000 * self.recipe.seed

    def segment(self, steps: int, turn: int, wait: Callable[[], None]) -> Segment:
        """Take so many steps; other arguments as for `Watch`."""
        self.taken += 1
        return self._segment(steps, Watch(steps, turn, wait, self.finish))

    def finish(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.recipe.device != "cpu":
            torch.accelerator.synchronize()

    @abstractmethod
    def learns(self) -> int:
        """Count the numbers that it trains."""

    @abstractmethod
    def _segment(self, steps: int, watch: Watch) -> Segment:
        """Take so many steps, each told to the watch."""


class Graft(Contestant):
    """graft, as `graft train` runs it."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """Build the run; as for `Contestant`."""
        super().__init__(settings)
        self._accelerator = hardware.accelerator(self.recipe.device)
        self._state = build(self.materials, self._accelerator.device)
        self._state.frozen = Frozen(keep=True)
        self._by_length = self._ordered()

    def learns(self) -> int:
        """As `Contestant`."""
        return sum(learner.weight.numel() for learner in self._state.learners)

    def _segment(self, steps: int, watch: Watch) -> Segment:
        """Take steps of all lengths, as many of each as an epoch has."""
        state, taken = self._state, []
        chosen = spread(self._by_length, steps, seed=self.order)
        watch.begin()
        for position in chosen:
            state.step = position
            taken.append(state.rows())
            train_step([state], self._accelerator)
            if len(taken) == steps:
                settle(state, self._accelerator)
            watch.step()
        counted = Counted()
        for rows in taken:
            counted.add(int(self.train.lengths[rows].sum()), len(rows) * state.length_of(self.train, rows), len(rows))
        return counted.segment(watch.seconds)

    def _ordered(self) -> list[int]:
        """The steps of the first epoch, from the shortest to the longest."""
        state, lengths = self._state, {}
        for position in range(state.epoch_steps):
            state.step = position
            lengths[position] = state.length_of(self.train, state.rows())
        return sorted(lengths, key=lengths.__getitem__)


def spread(ordered: Sequence[int], count: int, *, seed: int) -> list[int]:
    """Pick some of an ordered list at even distances from a random place on, and shuffle them.

    A few neighbouring steps of an epoch may be longer or shorter than the others; these are as long on average as all.

    Args:
        ordered: What to choose from.
        count: How many; more than there are take some several times.
        seed: Of the place and of the order.
    """
    generator = np.random.default_rng(seed)
    places = ((np.arange(count) + generator.random()) * len(ordered) / count).astype(int)
    return [ordered[place] for place in generator.permutation(places)]


class Peer(Contestant):
    """What the peers share: a stock model with peft's adapters, and examples as lists of token ids."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """Load the model and attach; as for `Contestant`."""
        super().__init__(settings)
        from transformers import AutoModelForSequenceClassification
        from transformers.utils import logging

        logging.set_verbosity_error()  # of a new classifier's weights, for one
        logging.disable_progress_bar()

        task = self.materials.data.task
        outputs = len(task.label_names or ()) or 1
        base = AutoModelForSequenceClassification.from_pretrained(
            self.materials.checkpoint.path, num_labels=outputs, local_files_only=True
        )
        self.model = _attach(base, self.recipe.method.model_dump())
        self.examples = list(_examples(self.materials))

    def learns(self) -> int:
        """As `Contestant`."""
        return sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)


class TrainerAndPeft(Peer):
    """transformers' Trainer with peft, as their documentation shows it."""

    def __init__(self, settings: Mapping[str, str], *, best: bool) -> None:
        """Choose how it runs; other arguments as for `Contestant`.

        Args:
            settings: The recipe.
            best: With bf16 and examples grouped by length; otherwise fp32 with dynamic padding, which is the default.
        """
        super().__init__(settings)
        self._chosen: dict[str, Any] = {"bf16": True, "train_sampling_strategy": "group_by_length"} if best else {}

    def _segment(self, steps: int, watch: Watch) -> Segment:
        """Begin an epoch of an order of its own."""
        from datasets import Dataset
        from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

        class Clock(TrainerCallback):  # type: ignore[misc]
            """Tells the watch of steps."""

            def on_step_begin(self, _: Any, progress: Any, *__: Any, **___: Any) -> None:
                if progress.global_step == 0:
                    watch.begin()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                watch.step()

        batches = []
        collate = DataCollatorWithPadding(load_tokenizer(self.materials.checkpoint))

        def counting(features: list[dict[str, Any]]) -> Any:
            batch = collate(features)
            batches.append(batch)  # the first ones are trained on; more may be fetched ahead
            return batch

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=EXAMPLES,
                max_steps=steps,
                learning_rate=PEER_RATE,
                use_cpu=self.recipe.device == "cpu",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                report_to="none",
                seed=self.order,
                **self._chosen,
            )
            trainer = Trainer(
                model=self.model,
                args=arguments,
                train_dataset=Dataset.from_list(self.examples),
                data_collator=counting,
                callbacks=[Clock()],
            )
            trainer.train()
        counted = Counted()
        for batch in batches[:steps]:
            counted.add_batch(batch)
        return counted.segment(watch.seconds)


class BareLoop(Peer):
    """The loop of a tutorial: shuffled batches, dynamic padding, fp32, AdamW, no adapters' library but peft."""

    def _segment(self, steps: int, watch: Watch) -> Segment:
        """Begin an epoch of an order of its own."""
        from torch.utils.data import DataLoader
        from transformers import DataCollatorWithPadding

        collate = DataCollatorWithPadding(load_tokenizer(self.materials.checkpoint))
        loader: Any = DataLoader(self.examples, batch_size=EXAMPLES, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
        learning = [weight for weight in self.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=PEER_RATE)
        device = torch.device(self.recipe.device)
        self.model.to(device).train()
        torch.manual_seed(self.order)
        counted = Counted()
        watch.begin()
        for batch in islice(chain.from_iterable(repeat(loader)), steps):
            counted.add_batch(batch)
            loss = self.model(**{name: value.to(device) for name, value in batch.items()}).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            watch.step()
        return counted.segment(watch.seconds)


CONTESTANTS = {
    "graft": Graft,
    "Trainer": partial(TrainerAndPeft, best=False),
    "Trainer, best": partial(TrainerAndPeft, best=True),
    "bare loop": BareLoop,
}
"""By the name in tables; the first one is measured against the others."""


def weights_outside_embeddings(contestant: Contestant) -> int:
    """Count graft's weights outside embeddings, adapters and heads left out."""
    assert isinstance(contestant, Graft)
    return sum(
        weight.numel()
        for name, weight in contestant._state.model.body.named_parameters()
        if "embeddings" not in name and "lora_" not in name
    )


_DOWN = r".*\.layer\.\d+\.output\.dense"
"""BERT's layers that leave the feed-forward part, by a pattern."""


def _attach(model: nn.Module, method: Mapping[str, Any]) -> nn.Module:
    """Do to a stock model what graft's method does, with peft where it takes part."""
    name = method["name"]
    if name == "full":
        return model
    if name == "lora":
        from peft import LoraConfig, TaskType, get_peft_model

        config = LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=method["r"],
            lora_alpha=method["alpha"],
            lora_dropout=method["dropout"],
            target_modules="all-linear" if method["targets"] == ("all-linear",) else list(method["targets"]),
        )
        adapted: nn.Module = get_peft_model(model, config)  # type: ignore[arg-type]
        return adapted
    if name == "ia3":
        from peft import IA3Config, TaskType, get_peft_model

        # peft's own choice for BERT scales the output of attention, too, which the paper does not.
        vectors = IA3Config(
            task_type=TaskType.SEQ_CLS,
            target_modules=rf".*\.attention\.self\.(key|value)|{_DOWN}",
            feedforward_modules=_DOWN,
        )
        scaled: nn.Module = get_peft_model(model, vectors)  # type: ignore[arg-type]
        return scaled
    for key, weight in model.named_parameters():
        weight.requires_grad_(key.startswith("classifier") or (name == "bitfit" and key.endswith(".bias")))
    return model


def _examples(materials: Materials) -> Iterator[dict[str, Any]]:
    """The training examples as transformers' data collators take them."""
    encoded = materials.encoded["train"]
    assert encoded.labels is not None
    for row, label in enumerate(encoded.labels.tolist()):
        example = {"label": label, "input_ids": encoded.input_ids[row].tolist()}
        if encoded.token_type_ids is not None:
            example["token_type_ids"] = encoded.token_type_ids[row].tolist()
        yield example
