"""Smaller models by recipes. `turnout_recipes.optimize` has it."""
