"""What PTX instructions compute, as functions of NumPy arrays (or NumPy scalars, for values that all threads share)."""
