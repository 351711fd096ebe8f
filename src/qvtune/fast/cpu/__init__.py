"""What is for a CPU alone: kernels in C++, and what is computed by them or in fewer passes."""
