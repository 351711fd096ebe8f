"""Find the learning rates: η_QK, λ and the head's, in a small part of what a grid costs."""
