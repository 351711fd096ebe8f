"""Two processes on the CPU, started as torchrun would."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from qvtune.conformance.report import Report
from qvtune.errors import RunError

PROCESSES = 2


def run_apart(*, ways: str, wrapper: str | None) -> Report:
    """Run the suite in two gloo processes on the CPU.

    Raises:
        RunError: if they ended without a report.
    """
    words = [sys.executable, "-m", "qvtune.conformance", "--device", "cpu"]
    words += ["--ways", ways] if ways else []
    words += ["--wrapper", wrapper] if wrapper else []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        common = {"WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        common |= {"LOCAL_WORLD_SIZE": str(PROCESSES), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        started = []
        try:
            for rank in range(PROCESSES):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                out = ["--report", str(report)] if rank == 0 else []
                started.append(subprocess.Popen([*words, *out], env=os.environ | common | own, stdout=sys.stderr))
            codes = [process.wait() for process in started]
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
        if not report.is_file():
            raise RunError(f"the processes ended with the codes {codes} and without a report. Their output says why.")
        return Report.from_dict(json.loads(report.read_text(encoding="utf-8")))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
