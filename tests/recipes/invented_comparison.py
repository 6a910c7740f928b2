"""A whole comparison of invented run folders: what reports are tested on, and looked at while they are made."""

import numpy as np
from synthetic_runs import invent_classes, make_recipe, write_run, write_texts

from graft.eval.comparison import Comparison
from graft.eval.gathering import compare_runs
from graft.eval.records import Evaluation, Parameters, read_record

HOSTILE = """<script>alert(1)</script>'"</script><img src=x onerror=alert(2)>{{7*7}}%{x}$x$@m1"""
"""Text that means something in HTML, plotly, Jinja, TeX and our palette."""

METHODS = {  # accuracy, parameters that learn, seconds a step, MiB
    "full": (0.84, 22_700_000, 0.31, 980),
    "lora": (0.83, 310_000, 0.335, 540),
    "bottleneck": (0.825, 450_000, 0.28, 520),
    "prefix": (0.79, 92_000, 0.27, 500),
    "bitfit": (0.81, 41_000, 0.22, 455),
    "ia3": (0.78, 9_200, 0.26, 470),
    "probe": (0.72, 770, 0.1, 260),
}


def invent(root, *, tasks=("mrpc", "rte"), methods=tuple(METHODS), seeds=5, examples=400, hostile="", margin=1.0):
    """Write run folders, and compare them.

    `hostile` is put into every text that comes from a user: tasks' names, classes, examples and labels of methods.
    """
    for number, task in enumerate(tasks):
        wanted = {method: METHODS[method][0] - 0.05 * number for method in methods}
        labels, logits = invent_classes(wanted, seeds, examples, seed=number)
        for method in methods:
            for seed in range(1, seeds + 1):
                run = _write(root, task + hostile, method, seed, labels, logits[method][seed - 1], hostile)
        texts = [
            (
                f"Sentence {n} of {task}, about something that happened. {hostile}",
                f"And another, which says the same or does not. {hostile}",
            )
            for n in range(examples)
        ]
        write_texts(root, read_record(run), texts, labels)
    comparison = compare_runs([root], margin=margin, reference="full")
    return _with_hostile_words(comparison, hostile) if hostile else comparison


def _write(root, task, method, seed, labels, logits, hostile):
    accuracy, trainable, seconds, memory = METHODS[method]
    generator = np.random.default_rng([seed, trainable])
    steps = np.arange(1, 345)
    losses = 0.7 * np.exp(-steps * accuracy / 250) + 0.1 + 0.08 * generator.normal(size=len(steps)) ** 2
    evaluations = [
        Evaluation(
            step=step,
            scores={"holdout": {"accuracy": 100 * accuracy - 900 / (step / 10 + 20) + generator.normal(), "loss": 0.5}},
        )
        for step in (115, 230, 344)
    ]
    cost = {"seconds_per_step": seconds, "peak_memory_bytes": memory * 2**20, "samples_per_second": 32 / seconds}
    return write_run(
        root,
        {"validation": (labels, logits)},
        task=task,
        method=method,
        seed=seed,
        cost=cost if seed == 1 and method != "ia3" else None,
        name=f"{method}-{seed}-{len(task)}-{task[:8].replace('/', '_')}",
        data=task,
        record_changes={
            "losses": losses.tolist(),
            "train_seconds": seconds * len(losses) * generator.uniform(1, 1.1),
            "evaluations": evaluations,
            "parameters": Parameters(
                trainable=trainable,
                trainable_without_head=trainable - 770,
                total=22_700_000 + trainable * (trainable < 10**6),
            ),
            "recipe": make_recipe(task=task, method=method, seed=seed),
        },
        adapter=4 * trainable if trainable < 10**6 else 9 * 10**6,
    )


def _with_hostile_words(comparison, hostile):
    """The same with hostile labels, warnings, paths and settings, which run folders would let through as well."""
    value = comparison.model_dump(mode="json", by_alias=True)
    relabelled = {"lora": f"lora, note={hostile}"}
    for section in ("results", "suite", "power"):
        for one in value[section]:
            label = relabelled.get(one["method"], one["method"])
            one["sentence"] = one["sentence"].replace(f"{one['method']}:", f"{label}:", 1)
            one["method"] = label
    for result in value["results"]:
        result["chosen"] = {f"optim.{hostile}": hostile}
        result["trials"] = 4
    value["warnings"] = [f"a warning about {hostile}"]
    value["missing"] = [{"what": f"/runs/{hostile}", "reason": f"damaged: {hostile}"}]
    value["hardware"] = {"cpu": hostile, hostile: [hostile]}
    value["versions"] = {hostile: hostile}
    value["protocol"]["settings"] = {"task": {hostile: hostile}}
    return Comparison.model_validate(value)
