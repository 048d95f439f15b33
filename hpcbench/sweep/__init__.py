"""Sweep files and the frozen run specifications that they become."""
