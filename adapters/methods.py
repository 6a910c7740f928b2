"""The table of methods. A new method is one file and one row here; README.md shows one whole."""

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from graft.adapters.adalora import ADALORA
from graft.adapters.bitfit import BITFIT
from graft.adapters.bottleneck import BOTTLENECK
from graft.adapters.config import MethodSettings
from graft.adapters.contract import Abilities, AttachContext, Attached, Method, Plain
from graft.adapters.full import FULL
from graft.adapters.ia3 import IA3
from graft.adapters.lora import LORA
from graft.adapters.prefix import PREFIX
from graft.adapters.probe import PROBE

__all__ = ["METHODS", "Abilities", "AttachContext", "Attached", "Method", "MethodConfig", "Plain"]

_ROWS = (
    FULL,
    PROBE,
    BITFIT,
    LORA,
    ADALORA,
    BOTTLENECK,
    IA3,
    PREFIX,
)
METHODS: dict[str, Method] = {row.name: row for row in _ROWS}

# The settings of any method, told apart by `name`. Type checkers see the base class, since the union is made of the
# table's rows when the program runs.
if TYPE_CHECKING:
    MethodConfig = MethodSettings
else:
    MethodConfig = Annotated[Union[tuple(row.config for row in METHODS.values())], Field(discriminator="name")]  # noqa: UP007
