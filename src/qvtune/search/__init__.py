"""Find the learning rates: η_QK, λ and the head's, at a small fraction of the cost of a grid."""
