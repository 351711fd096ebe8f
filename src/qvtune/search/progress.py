"""Progress of a search."""

from rich.console import Console

from qvtune.progress import Meter


class SearchProgress(Meter):
    """Shows how much of a budget is spent, how fast, and the time left."""

    def __init__(self, console: Console, steps: float) -> None:
        super().__init__("searching, step", steps, console, unit="steps")
        self.spent = 0.0

    def spend(self, steps: float) -> None:
        """Count what a step or a forward pass cost."""
        self.spent += steps
        self.show(self.spent)
