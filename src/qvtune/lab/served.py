"""What the server imports from which worker processes are forked."""

from qvtune.train.quiet import quiet_libraries

quiet_libraries()

import qvtune.train.run  # noqa: E402, F401
