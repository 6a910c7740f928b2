"""Adapt an encoder or a decoder to classification or regression.

Example:
    accelerate launch recipes/classify.py --task mrpc --model minilm --method lora --data FOLDER
"""

import sys

from graft.recipes import launch


def main() -> int:
    """Train what the command line describes; see `graft.recipes.launch.main`."""
    return launch.main(sys.argv[1:], kinds=("classification", "regression"), program="classify.py")


if __name__ == "__main__":
    sys.exit(main())
