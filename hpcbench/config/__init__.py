"""Sweep files and what they become."""
