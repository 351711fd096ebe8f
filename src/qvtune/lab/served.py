"""The imports of the server from which worker processes are forked."""

from qvtune.training.quiet import quiet_libraries

quiet_libraries()

import qvtune.training.run  # noqa: E402, F401
