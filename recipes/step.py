"""The optimiser step: one function over a list of runs, usually one.

Gradients are added up over micro-batches and then, in one all-reduce, over processes; each process may have any number
of micro-batches, also none. DistributedDataParallel is left out on purpose: it wants every process to run backward
equally often, through the same parameters, and neither holds here (steps are cut by length, strategies thaw stages,
terms bring data of their own).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from graft.adapters.model import Outputs
from graft.errors import TrainingError
from graft.eval.encoding import Batch, Encoded
from graft.recipes import hardware
from graft.recipes.batching import Rows, micro_batches, stream_rows
from graft.recipes.objective import BatchContext, DataStream, StepContext
from graft.recipes.optimisation import schedule_factor
from graft.recipes.row_gradients import compact
from graft.recipes.state import RunState, Unread
from graft.recipes.streams import stream


@dataclass
class Tally:
    """What the micro-batches of a step added up to on this process.

    Attributes:
        loss: A scalar.
        examples: Ids (B,) and task losses (B,) of each micro-batch.
    """

    loss: Tensor
    examples: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def train_step(states: Sequence[RunState], accelerator: Accelerator, rows: Rows | None = None) -> None:
    """Take one optimiser step in every run.

    Args:
        states: Runs that have steps left; each moves on by one step.
        accelerator: Says which process of how many this is.
        rows: Examples to learn from instead of those of each run's plan, for measuring.

    Raises:
        TrainingError: A loss or gradient is not finite, or memory does not suffice for one example. The weights
            are those of before the step that failed; on a device that queues its work that is the step before this
            one, and it counts as done. Where there are several runs, the one that fails says so in `failed` instead.
    """
    sweep = states[0].sweep
    if sweep is not None and rows is None and sweep.holds(states):
        sweep.step(states, accelerator)
        return
    for state in states:
        try:
            _take(state, accelerator, rows)
        except TrainingError as error:
            state.optimizer.zero_grad(set_to_none=True)
            if len(states) == 1:
                raise
            state.failed = error


def _take(state: RunState, accelerator: Accelerator, rows: Rows | None) -> None:
    """Take one optimiser step in one run; as `train_step`."""
    started = time.perf_counter()
    state.enter_step()
    chosen = state.rows() if rows is None else rows
    state.make_room(chosen)
    tally = _accumulate(state, chosen, accelerator)
    loss, gradients = _reduce(state, tally.loss, accelerator)
    figures = torch.stack([loss, torch.nn.utils.get_total_norm(gradients).to(loss.device)])
    ahead = hardware.queues(state.device) and not state.acts_after_updates
    state.unread.append(Unread.of(figures, state.step, tally.examples))
    _read(state, accelerator, leave=1 if ahead else 0)
    _update(state, figures, unseen=ahead)
    state.examples_seen += len(chosen)
    state.step += 1
    state.seconds += time.perf_counter() - started


def settle(state: RunState, accelerator: Accelerator) -> None:
    """Wait until the losses of all of a run's steps are known; on a processor they always are.

    Args:
        state: The run, between two steps.
        accelerator: Says which process of how many this is.

    Raises:
        TrainingError: As `train_step`, of a step that is taken already.
    """
    started = time.perf_counter()
    _read(state, accelerator, leave=0)
    state.seconds += time.perf_counter() - started


def _read(state: RunState, accelerator: Accelerator, *, leave: int) -> None:
    """Read the losses of the run's steps, but of as many as may be left for later, and stop at one that is not finite.

    A device that queues its work is a step ahead of what is read: it has its next work before the host waits for it.
    """
    while len(state.unread) > leave:
        step = state.unread.pop(0)
        loss, norm = step.read()
        try:
            check_finite(step.number, loss, norm, step.examples, accelerator)
        except TrainingError:
            state.unread.clear()  # what came after it was computed and not learned from
            raise
        state.losses.append(loss)


def _accumulate(state: RunState, rows: Rows, accelerator: Accelerator) -> Tally:
    """Run forward and backward over this process's share, in smaller micro-batches when memory runs out.

    Nothing is exchanged between processes in here, so one may start over without the others knowing.
    """
    while True:
        try:
            return forward_backward(state, rows, accelerator)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            longest = state.length_of(state.train, rows)
            if state.tokens <= longest:
                raise TrainingError(
                    f"step {state.step}: no memory for a single example of {longest} tokens; lower task.max_length, "
                    "set budget.gradient_checkpointing, or choose a cheaper method or a smaller model"
                ) from error
            state.tokens = max(longest, state.tokens // 2)
        state.optimizer.zero_grad(set_to_none=True)
        if state.device.type == "cuda":
            torch.cuda.empty_cache()


def forward_backward(state: RunState, rows: Rows, accelerator: Accelerator) -> Tally:
    """Add up this process's gradients of a step, terms and penalties included, and leave the weights as they are."""
    # For architectures that draw from the global generator in a place of their own: still a function of the step.
    hardware.seed(state.device, stream(state.recipe.seed, "stray", state.step, accelerator.process_index))
    tally = Tally(torch.zeros((), device=state.device))
    units, examples = float(state.train.units[rows].sum()), len(rows)
    if state.frozen is not None:  # by all processes together, also those without an example in this step
        state.frozen.prepare(state, state.train, precision=state.recipe.speed.precision)
    parts = _parts(state, state.train, rows, accelerator)
    for part in parts:
        context = forward(state, state.train, part)
        _add(tally, state.objective.batch_loss(context, units=units, examples=examples))
        assert context.losses is not None
        tally.examples.append((context.batch.ids, context.losses.detach()))
        if len(parts) > 1:
            compact(learner.weight for learner in state.learners)
    for term, data in state.objective.streams:
        picked = stream_rows(
            len(data.encoded.lengths), seed=state.recipe.seed, name=data.name, step=state.step, examples=data.examples
        )
        for part in _parts(state, data.encoded, picked, accelerator):
            losses = term.on_stream(data.name, forward(state, data.encoded, part, data)).losses
            if losses is not None:
                _add(tally, losses.sum() / data.examples)
    penalties = (state.objective.step_loss(_step_context(state)), state.attached.penalty())
    for penalty in penalties:
        if penalty is not None:  # every process adds its share of what is the same on all
            _add(tally, penalty / accelerator.num_processes)
    state.draws.end()
    return tally


def _parts(state: RunState, encoded: Encoded, rows: Rows, accelerator: Accelerator) -> list[Rows]:
    return micro_batches(
        rows,
        state.lengths_of(encoded),
        tokens=state.tokens,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )


def forward(state: RunState, encoded: Encoded, rows: Rows, data: DataStream | None = None) -> BatchContext:
    """Run the model on one micro-batch.

    Args:
        state: The run, in its coming step.
        encoded: Where the examples are.
        rows: Which of them.
        data: The term's own stream that they come from; none for the task's.

    Returns:
        What terms may look at; with the task's loss for the task's own examples.
    """
    kind = state.kind if data is None else data.kind
    batch: Batch = kind.collate(encoded, rows.tolist(), state.length_of(encoded, rows)).to(state.device)
    state.draws.begin(state.step, batch.ids, "train" if data is None else data.name)
    precision = state.recipe.speed.precision
    with torch.autocast(state.device.type, torch.bfloat16, enabled=precision == "bf16"):
        computed = None
        if state.frozen is not None and data is None:
            computed = state.frozen.run(state, encoded, batch, rows.tolist(), precision=precision)
        if computed is None:
            computed = state.model(batch.inputs, need=state.objective.needs)
    hidden = None if computed.hidden is None else tuple(layer.float() for layer in computed.hidden)
    outputs = Outputs(computed.features.float(), computed.logits.float(), hidden)  # losses are computed in fp32
    losses = kind.loss(outputs.logits, batch) if data is None else None
    return BatchContext(batch, outputs, losses, state.step, state.progress)


def _add(tally: Tally, loss: Tensor) -> None:
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    tally.loss += loss.detach()


def _reduce(state: RunState, loss: Tensor, accelerator: Accelerator) -> tuple[Tensor, list[Tensor]]:
    """Sum gradients and loss over processes in one message; what no process used keeps no gradient.

    Returns:
        The loss, and tensors that have the norm of all gradients together.
    """
    gradients = state.row_gradients.spread(learner.weight for learner in state.learners)
    if accelerator.num_processes == 1:
        return loss, gradients
    weights = [learner.weight for learner in state.learners if learner.weight.requires_grad]
    used = torch.tensor([float(weight.grad is not None) for weight in weights], device=state.device)
    flat = [torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in weights]
    message: Tensor = accelerator.reduce(torch.cat([loss[None], used, *flat]), reduction="sum")
    parts = torch.split(message, [1, len(weights), *(len(gradient) for gradient in flat)])
    for weight, count, gradient in zip(weights, parts[1].tolist(), parts[2:], strict=True):
        weight.grad = gradient.view_as(weight) if count else None
    return parts[0][0], [weight.grad for weight in weights if weight.grad is not None]


def check_finite(
    step: int, loss: float, norm: float, examples: Sequence[tuple[Tensor, Tensor]], accelerator: Accelerator
) -> None:
    """Stop at a loss or a gradient that is not finite, from which nothing is learned.

    Every process sees the same loss and gradient.

    Args:
        step: Number of the step.
        loss: Of the step.
        norm: Of the gradient.
        examples: Ids (B,) and task losses (B,) of this process's micro-batches.
        accelerator: Says which process of how many this is.

    Raises:
        TrainingError: One of them is not finite.
    """
    if np.isfinite(loss) and np.isfinite(norm):
        return
    if np.isfinite(loss):
        raise TrainingError(
            f"step {step}: the gradient is not finite though the loss is; nothing was learned from this step. "
            "Lower optim.lr or set speed.precision: fp32"
        )
    mine = [int(number) for ids, losses in examples for number in ids[~torch.isfinite(losses)]]
    culprits = sorted(gather_object(mine) if accelerator.num_processes > 1 else mine)
    where = f"training examples {culprits}" if culprits else "no single example; a term or the gradient"
    raise TrainingError(
        f"step {step}: the loss is {loss} ({where}); nothing was learned from this step. "
        "Lower optim.lr, set speed.precision: fp32, or look at these examples"
    )


def _step_context(state: RunState) -> StepContext:
    return StepContext(state.model, state.objective.reference, state.step, state.progress)


def _update(state: RunState, figures: Tensor, *, unseen: bool) -> None:
    """Clip the gradient, set the rates of this step, and let optimiser, method and terms move on.

    Args:
        state: The run, in its coming step.
        figures: Its loss and its gradient's norm, (2,).
        unseen: The host has not looked at them yet, so the device makes sure that nothing is learned from what is not
            finite. The host looks before the next update.
    """
    optim = state.recipe.optim
    rates = state.rates()
    assert optim.lr is not None
    peak = optim.lr * schedule_factor(state.recipe.schedule, state.step, state.total_steps)
    for group in state.optimizer.param_groups:
        group["lr"] = peak * rates[group["stage"]] * group["rate"]
    # The fused optimiser divides gradients by this on its way, and so clips them without a pass of its own.
    clip = float("inf") if optim.clip is None else optim.clip
    state.optimizer.grad_scale = (figures[1] / clip).clamp(min=1.0)  # type: ignore[attr-defined]
    if unseen:
        state.optimizer.found_inf = (~figures.isfinite().all()).float()  # type: ignore[attr-defined]
    state.optimizer.step()
    state.attached.after_update(state.step + 1)
    for term in state.objective.terms:
        term.after_update(_step_context(state))
    state.optimizer.zero_grad(set_to_none=True)
