"""What a run does before its first step: a head that is fitted, and a first token that sees the whole text."""
