"""Many runs: grids, the store that holds them, executors, comparisons and the paper's experiments."""
