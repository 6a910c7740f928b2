"""What a run will take, before it is made: parameters, memory by kind, steps, minutes, disk.

Memory is computed before it is used: weights, gradients, moments and copies are counted, and what steps and scoring
need on top is followed through a few examples of the largest batch's length, from which the whole batch follows, as it
grows by the same amount with every example. Where that fits, a few steps are taken, which tell the minutes, and what
makes the peak is rehearsed, which tells what the allocator and the kernels add.
"""

import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from graft.eval.encoding import Encoded
from graft.eval.predict import plan_batches
from graft.recipes import converted, hardware, heap, live_memory, row_gradients
from graft.recipes.batching import Rows, micro_batches
from graft.recipes.building import Materials, build, gather
from graft.recipes.cost import Trial, epochs, evaluation_steps, keeps_best, largest_batches
from graft.recipes.recipe import Recipe
from graft.recipes.recording import count_parameters
from graft.recipes.scoring import HOLDOUT
from graft.recipes.scoring import budget as scoring_budget
from graft.recipes.solitary import answer, run_alone
from graft.recipes.speed import explain_speed, kept_at
from graft.recipes.state import RunState
from graft.recipes.step import forward, forward_backward

_TIMED = 6
"""Steps that are taken to tell the time, spread evenly from short to long ones."""


@dataclass(frozen=True)
class Memory:
    """Peak memory of one process, in bytes, by what it is for.

    Attributes:
        runtime: Python, the libraries and the tokenised data; nothing on a GPU, where only tensors count.
        weights: The model's and the terms', and what is kept of frozen ones in bf16.
        gradients: Of what learns.
        optimiser: Its moments.
        activations: What the largest micro-batch keeps for its backward pass.
        reference: Copies of pretrained weights, where a term needs them.
        best: A copy of what learns, where the best weights are kept.
        scoring: What the largest batch passes while a split is scored, in fp32; steps hold nothing then.
        saving: Copies that writing a checkpoint takes; none where the run ends with its first evaluation.
        workspace: What kernels and the allocator take beyond that; known only where the run was tried.
        total: At the peak, of steps, scoring and saving whichever takes most: less than the sum, also as gradients
            come while activations go. As it was seen where the run was tried, else as it was counted.
        available: Free on the device before the run.
    """

    runtime: int
    weights: int
    gradients: int
    optimiser: int
    activations: int
    reference: int
    best: int
    scoring: int
    saving: int
    workspace: int | None
    total: int
    available: int


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        task: Its name.
        method: Its name.
        device: Where.
        parameters: `trainable`, `trainable_without_head`, `total`.
        memory: By kind.
        examples: Split → number of examples.
        truncated: Split → examples that are cut at `task.max_length`.
        steps: Optimiser steps.
        micro_batches: The most in one step.
        seconds_per_step: On average; none where the run does not fit into memory.
        minutes: Training and evaluations of the holdout; none where the run does not fit.
        artefact_bytes: What the run leaves, about.
        checkpoint_bytes: What it takes on disk meanwhile, about.
        speed: Switch under `speed` → where it stands, and why.
    """

    task: str
    method: str
    device: str
    parameters: dict[str, int]
    memory: Memory
    examples: dict[str, int]
    truncated: dict[str, int]
    steps: int
    micro_batches: int
    seconds_per_step: float | None
    minutes: float | None
    artefact_bytes: int
    checkpoint_bytes: int
    speed: dict[str, str]

    @property
    def fits(self) -> bool:
        """Whether the peak is below what is free."""
        return self.memory.total <= self.memory.available


def plan(recipe: Recipe) -> Plan:
    """Work out what a recipe will take, in a process of its own.

    Args:
        recipe: What would be trained.

    Raises:
        GraftError: The recipe cannot be carried out; the same error as training gives.
        TrainingError: The process failed; its last words are in the message.
    """
    found = run_alone("graft.recipes.plan", recipe)
    return Plan(**found | {"memory": Memory(**found["memory"])})


def _work_out(recipe: Recipe) -> Plan:
    """Build the run, count, and take a few steps."""
    materials, asked = gather(recipe), recipe
    recipe = materials.recipe
    torch.set_num_threads(recipe.threads or torch.get_num_threads())
    accelerator = hardware.accelerator(recipe.device)
    available = _free(accelerator.device)
    state = build(materials, accelerator.device)
    speed = explain_speed(asked, state)
    parts = _micro_batches(state)
    memory = _memory(state, materials, parts, available, accelerator)
    seconds = minutes = None
    if memory.total <= memory.available:
        trial = Trial(state, accelerator, materials.encoded)
        seconds = _seconds_per_step(state, parts, trial)
        trial.rehearse()
        memory = _seen(memory, hardware.peak_memory(accelerator.device.type) + _compiled_later(state, parts))
        computed = state.total_steps
        if state.recipe.speed.cache and kept_at(state) is not None:  # later epochs look up what the first computed
            computed = min(computed, state.epoch_steps)
        minutes = (seconds * computed + _seconds_of_evaluations(state, materials)) / 60
    learned = sum(learner.weight.nbytes for learner in state.learners)
    return Plan(
        task=materials.data.task.name,
        method=recipe.method.name,
        device=recipe.device,
        parameters=count_parameters(state),
        memory=memory,
        examples={name: len(split) for name, split in materials.data.splits.items()},
        truncated={name: encoded.truncated for name, encoded in materials.encoded.items()},
        steps=state.total_steps,
        micro_batches=max(len(step) for step in parts),
        seconds_per_step=seconds,
        minutes=minutes,
        artefact_bytes=learned,
        checkpoint_bytes=learned + memory.optimiser + memory.best,
        speed=speed,
    )


def _micro_batches(state: RunState) -> list[list[Rows]]:
    """The micro-batches of every step of the run."""
    steps = (rows for epoch in epochs(state) for rows in epoch)
    lengths = state.lengths_of(state.train)
    return [micro_batches(rows, lengths, tokens=state.recipe.budget.tokens) for rows in steps]


def _free(device: torch.device) -> int:
    """Free memory in bytes, with what this process holds already."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return hardware.free_memory() + int(psutil.Process().memory_info().rss)


def _memory(
    state: RunState, materials: Materials, parts: list[list[Rows]], available: int, accelerator: Accelerator
) -> Memory:
    """Count memory by kind."""
    held = [*state.model.parameters(), *state.model.buffers(), *state.objective.modules.parameters()]
    weights = sum({tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in held}.values())
    learned = sum(learner.weight.nbytes for learner in state.learners)
    reference = 0 if state.objective.reference is None else state.objective.reference.bytes
    resident = psutil.Process().memory_info().rss
    runtime = 0 if state.device.type == "cuda" else max(0, resident - weights - reference)
    best = learned if keeps_best(state, materials.encoded) else 0
    state.step = state.total_steps - 1  # when all that a strategy lets learn is learning
    activations = max(_activations(state, part) for part in _largest(parts, state))
    tables = sum(weight.nbytes for weight in row_gradients.tables(state.model) if weight.requires_grad)
    copies = converted.copied(state.model)  # once made, they stay
    standing = runtime + weights + copies + 2 * learned + tables + reference + best
    alone = all(len(step) == 1 for step in parts)
    passing = learned - tables
    step = max(activations, passing) if alone else activations + passing
    if standing + step <= available:  # else the gradients alone may be too much
        step = max(_step_peak(state, part, alone, accelerator) for part in _largest(parts, state))
    state.step = 0
    scoring = max(
        (_scoring_peak(state, split) for name, split in materials.encoded.items() if name != "train"), default=0
    )
    saves = state.total_steps > evaluation_steps(state) and state.device.type != "cuda"
    saving = 2 * learned if saves else 0
    return Memory(
        runtime=runtime,
        weights=weights + copies,
        gradients=learned,
        optimiser=2 * learned,
        activations=activations,
        reference=reference,
        best=best,
        scoring=scoring,
        saving=saving,
        workspace=None,
        total=standing + max(step, scoring, saving),
        available=available,
    )


def _step_peak(state: RunState, part: Rows, alone: bool, accelerator: Accelerator) -> int:
    """Bytes that a step passes at its peak, gradients included, in micro-batches as large as one that it has."""
    longest = part[state.train.lengths[part].argmax()]
    budget, length = state.tokens, state.length_of(state.train, part)

    def work(examples: int) -> None:
        state.tokens = examples * length
        forward_backward(state, np.repeat(longest, examples if alone else 2 * examples), accelerator)
        state.optimizer.zero_grad(set_to_none=True)

    state.enter_step()
    peak = live_memory.peak(work, len(part))
    state.tokens = budget
    return peak


def _scoring_peak(state: RunState, split: Encoded) -> int:
    """Bytes that scoring a split passes at its peak."""

    def peak(rows: list[int]) -> int:
        longest = rows[int(split.lengths[rows].argmax())]

        def work(examples: int) -> None:
            batch = state.kind.collate(split, [longest] * examples).to(state.device)
            state.kind.scores(state.model(batch.inputs).logits, batch)

        return live_memory.peak(work, len(rows))

    with state.evaluating():
        return max(peak(rows) for rows in largest_batches(split.lengths, scoring_budget(state)))


def _seen(memory: Memory, peak: int) -> Memory:
    """Let what a rehearsal took stand for what was counted."""
    return replace(memory, workspace=max(0, peak - memory.total), total=peak)


def _compiled_later(state: RunState, parts: list[list[Rows]]) -> int:
    """Bytes, about, of what is compiled for lengths that the run meets, and the steps that were timed did not."""
    if not hardware.compiles_lengths(state.device, state.recipe.speed.precision):
        return 0
    _, picked = _picked(state, parts)
    every, met = (
        {state.length_of(state.train, part) for step in steps for part in step}
        for steps in (parts, [parts[number] for number in picked])
    )
    return heap.LENGTH_BYTES * max(0, min(len(every), heap.LENGTHS) - len(met))


def _largest(parts: list[list[Rows]], state: RunState) -> list[Rows]:
    """The micro-batches with the most tokens and with the most pairs of tokens, padding counted."""
    every = [part for step in parts for part in step]
    lengths = [state.length_of(state.train, part) for part in every]
    by_tokens = max(range(len(every)), key=lambda at: len(every[at]) * lengths[at])
    by_pairs = max(range(len(every)), key=lambda at: len(every[at]) * lengths[at] ** 2)
    return [every[at] for at in {by_tokens, by_pairs}]


def _activations(state: RunState, part: Rows) -> int:
    """Bytes that a micro-batch keeps for its backward pass, from its longest example once and twice."""
    longest = part[state.train.lengths[part].argmax()]
    once, twice = (_kept(state, np.array([longest] * count)) for count in (1, 2))
    if state.recipe.budget.gradient_checkpointing:  # one layer at a time is computed again
        layers = sum(stage.name.startswith("layer.") for stage in state.model.stages())
        if state.shortened and layers > 1:  # the last layer keeps little, and is not the one that is the peak
            layers -= 1
        state.model.body.activation_checkpointing_disable()  # type: ignore[no-untyped-call]
        full_once, full_twice = (_kept(state, np.array([longest] * count)) for count in (1, 2))
        state.model.body.activation_checkpointing_enable({"use_reentrant": False})
        once, twice = once + full_once // layers, twice + full_twice // layers
    return once + (len(part) - 1) * (twice - once)


def _kept(state: RunState, rows: Rows) -> int:
    """Bytes that autograd keeps after a forward pass, weights left out."""
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    state.enter_step()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        context = forward(state, state.train, rows)
        loss = state.objective.batch_loss(context, units=1.0, examples=1)
    del loss
    state.draws.end()
    for standing in (*state.model.parameters(), *converted.copies(state.model)):
        kept.pop(standing.untyped_storage().data_ptr(), None)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _seconds_per_step(state: RunState, parts: list[list[Rows]], trial: Trial) -> float:
    """Take steps from short to long, each twice, and tell the mean over all steps by their tokens."""
    tokens, picked = _picked(state, parts)
    seconds = np.array([min(trial.take(np.concatenate(parts[number])) for _ in range(2)) for number in picked])
    met = tokens[picked]
    if met.min() == met.max():
        return float(np.median(seconds))
    slope, start = np.polyfit(met, seconds, 1)
    return float(max(start + slope * tokens.mean(), seconds.min()))


def _picked(state: RunState, parts: list[list[Rows]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Tokens of every step, padding counted, and the steps to time, from short to long."""
    tokens = np.array(
        [sum(len(part) * state.length_of(state.train, part) for part in step) for step in parts], dtype=float
    )
    order = np.argsort(tokens)
    return tokens, order[np.linspace(0, len(order) - 1, _TIMED).astype(int)]


def _seconds_of_evaluations(state: RunState, materials: Materials) -> float:
    """Score one batch of the holdout and tell the time of all evaluations by their tokens."""
    encoded = materials.encoded.get(HOLDOUT)
    if encoded is None:
        return 0.0
    batches = plan_batches(encoded.lengths, scoring_budget(state))
    tokens = [len(rows) * int(encoded.lengths[rows].max()) for rows in batches]
    middle = batches[len(batches) // 2]
    with state.evaluating():
        started = time.perf_counter()
        state.model(materials.kind.collate(encoded, middle).to(state.device).inputs)
        seconds = time.perf_counter() - started
    evaluations = -(-state.total_steps // evaluation_steps(state))
    return evaluations * seconds * sum(tokens) / tokens[len(batches) // 2]


if __name__ == "__main__":
    answer(lambda recipe: asdict(_work_out(recipe)))
