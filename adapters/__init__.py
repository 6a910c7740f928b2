"""What changes in a model: checkpoints and their families, one file per method, saving and export."""

import logging

# peft imports bitsandbytes, which then asks for an optional package of kernels: nothing that a user can act upon.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
