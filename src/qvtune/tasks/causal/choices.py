"""What of a text is trained: the values of `--train-on`."""

COMPLETION, ALL = "completion", "all"
