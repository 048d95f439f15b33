"""Ranks in containers: engines, image checks, and the command that starts each rank."""
