"""How well it does: tasks and their examples, metrics, prediction, run records."""
