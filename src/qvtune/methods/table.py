"""`METHODS`: every fine-tuning method by name, in the order in which lists show them."""

from qvtune.errors import AdaptError
from qvtune.methods.adalora import ADALORA
from qvtune.methods.full import FULL
from qvtune.methods.galore import GALORE
from qvtune.methods.lora import DORA, LORA, LORAPLUS, RSLORA
from qvtune.methods.method import Method
from qvtune.methods.parts import BITFIT, HEAD
from qvtune.methods.sift import SIFT
from qvtune.methods.starts import EVA, LOFTQ, OLORA, PISSA
from qvtune.methods.vectors import IA3, VERA

METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Add a method, so that `adapt`, every command and every file can use its name.

    Raises:
        AdaptError: if there is another method of that name.
    """
    if METHODS.get(method.name, method) != method:
        raise AdaptError(f"there is a method '{method.name}' already. Give the new one another name.")
    METHODS[method.name] = method
    return method


for _method in (
    *(LORA, FULL, DORA, RSLORA, PISSA, OLORA, EVA, LOFTQ, LORAPLUS, ADALORA),
    *(IA3, VERA, GALORE, SIFT, BITFIT, HEAD),
):
    register(_method)
