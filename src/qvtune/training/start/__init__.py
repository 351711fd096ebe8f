"""What a run does before its first step: it fits the head, and lets the first token see the whole text."""
