"""Amounts and lists as people read them."""


def format_seconds(seconds: float) -> str:
    """Return "0.4 s", "42 s", "3 min 5 s" or "2 h 10 min"."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_bytes(size: int) -> str:
    """Return "512 KiB", or from ten mebibytes on "1,835 MiB"."""
    return f"{size / 2**20:,.0f} MiB" if size >= 10 * 2**20 else f"{size / 2**10:,.0f} KiB"


def count(number: int, noun: str) -> str:
    """Return "1 run" or "1,835 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def join_words(words: list[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)
