"""Named streams of randomness: every random choice is a pure function of the seed and of what it is for.

Nothing draws from a generator that others draw from too, so that a resumed run, a run on two processes and
runs trained together need no generator state to agree with the undisturbed one.
"""

import hashlib


def stream(seed: int, *names: str | int) -> int:
    """Derive an independent seed for one purpose.

    Args:
        seed: The recipe's seed.
        *names: What the numbers are for, such as `"order", 3` for the order of the fourth epoch.

    Returns:
        An integer in [0, 2**63), fit for `torch.manual_seed` and NumPy alike.
    """
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
