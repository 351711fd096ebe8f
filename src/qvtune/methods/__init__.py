"""HOW what trains is trained: a table of fine-tuning methods, and what each of them needs beside PEFT."""
