"""What the paper proves, computed on real models."""
