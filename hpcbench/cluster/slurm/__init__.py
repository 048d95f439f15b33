"""Runs on a cluster: what is asked of Slurm, what a job does on its nodes, and what became of it."""
