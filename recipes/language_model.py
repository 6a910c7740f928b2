"""Adapt a decoder to plain text: next-token prediction over packed sequences.

Example:
    accelerate launch recipes/language_model.py --model FOLDER --method lora --data corpus.txt
"""

import sys

from graft.recipes import launch


def main() -> int:
    """Train what the command line describes; see `graft.recipes.launch.main`."""
    defaults = {"task": {"name": "text"}}
    return launch.main(sys.argv[1:], kinds=("causal_lm",), program="language_model.py", defaults=defaults)


if __name__ == "__main__":
    sys.exit(main())
