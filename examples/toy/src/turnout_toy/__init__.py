"""The smallest turnout plugin: Add, Mul and Relu in NumPy."""
