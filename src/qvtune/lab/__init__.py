"""Many runs: grids, the store that keeps them, executors, comparisons and the paper's experiments."""
