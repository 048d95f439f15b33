"""Clocks, memory, and what the machine is."""
