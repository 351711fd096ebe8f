"""HOW parameters train: a table of fine-tuning methods, and what each of them needs beside PEFT."""
