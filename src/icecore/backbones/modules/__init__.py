"""What is put into a body: run-axis norms and dropout, attention, 8-bit layers, and compiled kernels."""
