"""Checks of this machine for `hpcbench doctor`, and the draft of a site profile."""
