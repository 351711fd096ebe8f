"""The theorems of the paper: the bound of Theorem 1 as a calculator, the scaling of Theorem 2 as an experiment."""
