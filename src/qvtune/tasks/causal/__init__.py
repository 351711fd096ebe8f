"""What a causal language model learns: conversations, and completions of prompts."""
