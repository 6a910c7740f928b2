"""Runs that take their steps together: one forward and one backward pass over one frozen base, adapters stacked.

K small runs of one method, seeds or learning rates of a sweep, read the same base weights. Their examples go through
the frozen layers as one batch, and every adapter multiplies its own run's part of it, all K in one batched product.
What learns lies in one array, so that one update moves all of it. An accelerator whose time goes into launching kernels
does K runs' work with the launches of one; on a processor nothing is gained.

A run's losses are those that it has by itself, up to the rounding of sums: dropout masks belong to a run's seed and an
example, and neither padding nor the batch around an example changes what a layer makes of it.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from graft.adapters.model import Outputs
from graft.errors import TrainingError
from graft.eval.encoding import Batch
from graft.recipes.batching import Rows
from graft.recipes.joining import lora_layers, obstacle, pair, share
from graft.recipes.objective import BatchContext
from graft.recipes.optimisation import schedule_factor
from graft.recipes.stand_ins import stand_ins
from graft.recipes.state import RunState
from graft.recipes.step import Tally, check_finite, forward_backward


def join(states: Sequence[RunState], accelerator: Accelerator) -> str | None:
    """Let runs take their steps together from now on, where they can.

    Args:
        states: The runs, all at the same step.
        accelerator: Says how many processes there are.

    Returns:
        None where they do; else the reason why each takes its steps by itself.
    """
    reason = "there are several processes" if accelerator.num_processes > 1 else obstacle(states)
    if reason is None:
        sweep = Sweep(states)
        for state in states:
            state.sweep = sweep
    return reason


def leave(states: Sequence[RunState]) -> None:
    """Let each run be by itself again."""
    for state in states:
        state.sweep = None


class Sweep:
    """Runs of one method on one frozen base, of which those that have steps left take them together."""

    def __init__(self, states: Sequence[RunState]) -> None:
        """Put what learns, its gradients and its moments into one array each, and share the frozen weights.

        Args:
            states: The runs; their parameters and their optimisers' states become views of the arrays.
        """
        self.states = tuple(states)
        self._numbers = {id(state): number for number, state in enumerate(states)}
        lead = states[0]
        for state in states[1:]:
            share(lead, state)
        self._sizes = [learner.weight.numel() for learner in lead.learners]
        self._counts = torch.tensor([size for size in self._sizes for _ in states], device=lead.device)
        total = len(states) * sum(self._sizes)
        self._values, self._gradients, self._first, self._second = (
            torch.zeros(total, device=lead.device) for _ in range(4)
        )
        self._views: list[list[Tensor]] = [[] for _ in states]
        """Of each run, the gradients of its learners."""
        self._steps: list[list[Tensor]] = [[] for _ in states]
        """Of each run, the optimiser's count of steps for each of its learners."""
        self._stacks: dict[int, Tensor] = {}
        """By the lead's weight: all runs' weights, (K, ...), whose gradients are the runs'."""
        self._take_over()

    def _take_over(self) -> None:
        """Make every run's weights, gradients and moments views of the arrays."""
        runs, start = len(self.states), 0
        for number, size in enumerate(self._sizes):
            stop = start + runs * size
            weights = [state.learners[number].weight for state in self.states]
            values, gradients, first, second = (
                array[start:stop].view(runs, *weights[0].shape)
                for array in (self._values, self._gradients, self._first, self._second)
            )
            for run, (state, weight) in enumerate(zip(self.states, weights, strict=True)):
                values[run] = weight.detach()
                weight.data = values[run]
                kept = state.optimizer.state[weight]
                for name, moment in (("exp_avg", first), ("exp_avg_sq", second)):
                    if name in kept:
                        moment[run] = kept[name]
                    kept[name] = moment[run]
                kept["step"] = torch.tensor(float(state.step), device=state.device)
                self._steps[run].append(kept["step"])
                self._views[run].append(gradients[run])
            stack = values.detach().requires_grad_()
            stack.grad = gradients
            self._stacks[id(weights[0])] = stack
            start = stop

    def holds(self, states: Sequence[RunState]) -> bool:
        """Whether these are runs of it, several and in its order."""
        numbers = [self._numbers.get(id(state), -1) for state in states]
        return len(states) > 1 and numbers[0] >= 0 and numbers == sorted(set(numbers))

    def step(self, states: Sequence[RunState], accelerator: Accelerator) -> None:
        """Take one optimiser step in some of the runs, those that have steps left.

        A run whose loss or gradient is not finite says so in `failed`, and keeps the weights of the step before.

        Args:
            states: Runs of the sweep, in its order, all at the same step.
            accelerator: Says which process of how many this is.

        Raises:
            TrainingError: Memory does not suffice for one example.
        """
        started = time.perf_counter()
        going = [self._numbers[id(state)] for state in states]
        self.states[0].enter_step()  # its model computes for all, also when its own run is done
        for state in states:
            state.enter_step()
        chosen = {run: self.states[run].rows() for run in going}
        self.states[0].make_room(np.concatenate(list(chosen.values())))
        taken = self._accumulate(chosen, accelerator)
        norms = {run: torch.nn.utils.get_total_norm(self._views[run]) for run in going}
        # The only time in a step that the host waits for the device.
        losses, lengths = torch.stack(
            [torch.stack([taken[run].loss for run in going]), torch.stack(list(norms.values()))]
        ).tolist()
        for run, loss, length in zip(going, losses, lengths, strict=True):
            try:
                check_finite(self.states[run].step, loss, length, taken[run].examples, accelerator)
            except TrainingError as error:
                self.states[run].failed = error
                del norms[run]
        self._update(norms)
        seconds = (time.perf_counter() - started) / len(states)
        for state, run, loss in zip(states, going, losses, strict=True):
            if state.failed is None:
                state.attached.after_update(state.step + 1)
                state.losses.append(loss)
                state.examples_seen += len(chosen[run])
                state.step += 1
                state.seconds += seconds
            state.optimizer.zero_grad(set_to_none=True)  # a step that the run takes by itself begins with none

    def _accumulate(self, chosen: Mapping[int, Rows], accelerator: Accelerator) -> dict[int, Tally]:
        """Run forward and backward over the runs' examples, fewer of them together when memory runs out."""
        lead, lengths = self.states[0], self.states[0].lengths_of(self.states[0].train)
        while True:
            self._clear()
            try:
                return self._forward_backward(chosen, accelerator)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                longest = max(int(lengths[rows].max()) for rows in chosen.values())
                if lead.tokens <= longest:
                    step = self.states[min(chosen)].step
                    raise TrainingError(
                        f"step {step}: no memory for a single example of {longest} tokens; lower task.max_length, or "
                        "choose a cheaper method or a smaller model"
                    ) from error
                tokens = max(longest, lead.tokens // 2)
                for state in self.states:
                    state.tokens = tokens
            if lead.device.type == "cuda":
                torch.cuda.empty_cache()

    def _clear(self) -> None:
        """Set all gradients to zero, and let every run's be in the array."""
        self._gradients.zero_()
        for state, views in zip(self.states, self._views, strict=True):
            for learner, view in zip(state.learners, views, strict=True):
                learner.weight.grad = view

    def _forward_backward(self, chosen: Mapping[int, Rows], accelerator: Accelerator) -> dict[int, Tally]:
        """Add up all runs' gradients."""
        taken: dict[int, Tally] = {}
        for runs in self._groups(chosen):
            if len(runs) == 1:
                taken[runs[0]] = forward_backward(self.states[runs[0]], chosen[runs[0]], accelerator)
                continue
            contexts = self._forward(runs, [chosen[run] for run in runs])
            total = torch.zeros((), device=self.states[0].device)
            for run, context in zip(runs, contexts, strict=True):
                state, rows = self.states[run], chosen[run]
                assert context.losses is not None
                units = float(state.train.units[rows].sum())
                loss = state.objective.batch_loss(context, units=units, examples=len(rows))
                taken[run] = Tally(loss.detach(), [(context.batch.ids, context.losses.detach())])
                total = total + loss
                state.draws.end()
            total.backward()  # type: ignore[no-untyped-call]
        return taken

    def _groups(self, chosen: Mapping[int, Rows]) -> Iterator[list[int]]:
        """Divide the runs into those whose steps are of one size and fit into one micro-batch."""
        lengths, tokens = self.states[0].lengths_of(self.states[0].train), self.states[0].tokens
        sizes = {run: (len(rows), int(lengths[rows].max())) for run, rows in chosen.items()}
        group: list[int] = []
        for run in sorted(sizes, key=sizes.__getitem__):
            examples, longest = sizes[run]
            if group and ((len(group) + 1) * examples * longest > tokens or examples != sizes[group[0]][0]):
                yield sorted(group)
                group = []
            group.append(run)
        yield sorted(group)

    def _forward(self, runs: Sequence[int], chosen: Sequence[Rows]) -> list[BatchContext]:
        """Run the base once over the examples of several runs, and each run's head over its own."""
        states, size = [self.states[run] for run in runs], len(chosen[0])
        lead, kind = self.states[0], states[0].kind
        every = np.concatenate(chosen)
        joined = kind.collate(lead.train, every.tolist(), lead.length_of(lead.train, every)).to(lead.device)
        batches = [_part(joined, slice(place * size, (place + 1) * size)) for place in range(len(states))]
        for state, batch in zip(states, batches, strict=True):
            state.draws.begin(state.step, batch.ids)
        bf16 = lead.recipe.speed.precision == "bf16"
        with torch.autocast(lead.device.type, torch.bfloat16, enabled=bf16):
            with self._stacked(runs):
                features = lead.model.features(joined.inputs)
            outputs = [
                Outputs(part, state.model.logits(part), None)
                for part, state in zip(torch.split(features, size), states, strict=True)
            ]
        contexts = []
        for state, batch, output in zip(states, batches, outputs, strict=True):
            full = Outputs(output.features.float(), output.logits.float(), None)
            losses = kind.loss(full.logits, batch)
            contexts.append(BatchContext(batch, full, losses, state.step, state.progress))
        return contexts

    @contextmanager
    def _stacked(self, runs: Sequence[int]) -> Iterator[None]:
        """Let the lead's model compute with the adapters of several runs, each on its part of the batch."""
        lead, states = self.states[0], [self.states[run] for run in runs]
        own = lead.draws.rows
        place: list[int] | slice = slice(None) if len(runs) == len(self.states) else list(runs)
        patched: list[nn.Module] = list(lora_layers(lead))
        forwards = [
            partial(_adapted, layer, *(self._stacks[id(weight)][place] for weight in pair(layer)))
            for layer in lora_layers(lead)
        ]
        inside = {id(module) for module in lead.model.body.modules()}
        for number, module in enumerate(lead.stages[-1]):
            if id(module) in inside:  # a fresh pooler, which learns with the head
                patched.append(module)
                forwards.append(partial(_each, [state.stages[-1][number] for state in states], lead, own))
        with stand_ins(patched, forwards), lead.draws.joined([state.draws for state in states]):
            yield

    def _update(self, norms: Mapping[int, Tensor]) -> None:
        """Clip each run by its own norm, and move all of them as AdamW does (Loshchilov & Hutter 2019).

        Weights, gradients and moments are one array each, the same learner's of all runs side by side; so are the
        factors that belong to a run or to a learner, spread over it. Runs without a norm stay where they are.
        """
        for run, views in enumerate(self._views):
            if run not in norms:
                torch._foreach_zero_(views)
        device, one = self.states[0].device, self.states[min(norms, default=0)]
        (beta, gamma), eps, done = one.recipe.optim.betas, one.recipe.optim.eps, one.step + 1
        runs = range(len(self.states))
        still = torch.zeros((), device=device)
        moves = self._spread(
            torch.tensor([float(run in norms) for run in runs], device=device).repeat(len(self._sizes))
        )
        limits = torch.tensor([state.recipe.optim.clip or float("inf") for state in self.states], device=device)
        scale = (torch.stack([norms.get(run, still) for run in runs]) / limits).clamp(min=1.0).reciprocal()
        rates = torch.tensor([self._rates(run, moves=run in norms) for run in runs], device=device).T.reshape(-1)
        decays = torch.tensor(
            [[state.recipe.optim.weight_decay * each.decays for each in state.learners] for state in self.states],
            device=device,
        ).T.reshape(-1)
        with torch.no_grad():
            gradients = self._gradients.mul_(self._spread(scale.repeat(len(self._sizes))))
            self._first.lerp_(gradients, (1 - beta) * moves)
            self._second.mul_(1 - (1 - gamma) * moves).addcmul_(gradients, gradients, value=1 - gamma)
            size = (self._second / (1 - gamma**done)).sqrt_().add_(eps)
            self._values.mul_(self._spread(1 - rates * decays))
            self._values.sub_(self._spread(rates / (1 - beta**done)) * self._first / size)
            if norms:
                torch._foreach_add_([step for run in norms for step in self._steps[run]], 1.0)

    def _rates(self, run: int, *, moves: bool) -> list[float]:
        """The rate of each of a run's learners at the coming step; zero where it takes none."""
        state = self.states[run]
        if not moves:
            return [0.0] * len(state.learners)
        optim, rates = state.recipe.optim, state.rates()
        assert optim.lr is not None
        peak = optim.lr * schedule_factor(state.recipe.schedule, state.step, state.total_steps)
        return [peak * rates[learner.stage] * learner.rate for learner in state.learners]

    def _spread(self, factors: Tensor) -> Tensor:
        """Repeat one factor for each learner and run over all of its weights."""
        return torch.repeat_interleave(factors, self._counts, output_size=len(self._values))


def _part(batch: Batch, rows: slice) -> Batch:
    labels = None if batch.labels is None else batch.labels[rows]
    return Batch(
        {name: tensor[rows] for name, tensor in batch.inputs.items()}, labels, batch.ids[rows], batch.units[rows]
    )


def _adapted(layer: LoraLinear, down: Tensor, up: Tensor, hidden: Tensor) -> Tensor:
    """Run a frozen layer over all runs' examples and each run's adapter over its own.

    Args:
        layer: The lead's.
        down: A of each run, (K, r, in).
        up: B of each run, (K, out, r).
        hidden: (K B, ..., in), one run's examples after the other's.
    """
    result: Tensor = layer.base_layer(hidden)
    runs, scale = len(down), float(layer.scaling["default"])
    given = layer.lora_dropout["default"](hidden).reshape(runs, -1, hidden.shape[-1])
    low = torch.bmm(given, down.transpose(1, 2))  # (K, n, r)
    added = torch.baddbmm(result.reshape(runs, -1, result.shape[-1]), low, up.transpose(1, 2), alpha=scale)
    return added.view(result.shape)


def _each(modules: Sequence[nn.Module], lead: RunState, own: Tensor | None, hidden: Tensor) -> Tensor:
    """Run a module that learns whole over each run's part of a batch, with the lead's own masks for the lead."""
    joined, lead.draws.rows = lead.draws.rows, own
    try:
        parts = torch.split(hidden, len(hidden) // len(modules))
        return torch.cat([type(module).forward(module, part) for module, part in zip(modules, parts, strict=True)])
    finally:
        lead.draws.rows = joined
