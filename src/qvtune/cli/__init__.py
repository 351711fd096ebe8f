"""The command line: one thin verb per file, which parses, calls and prints."""
