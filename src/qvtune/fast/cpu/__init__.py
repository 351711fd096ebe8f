"""Parts for CPUs only: kernels in C++, and computations by them or in fewer passes."""
