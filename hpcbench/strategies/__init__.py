"""The strategies: one module per strategy, and their registry entries.

Importing the registry imports no torch."""
