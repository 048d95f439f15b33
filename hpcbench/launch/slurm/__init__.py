"""The Slurm backend: client commands, site profile, batch script, submission, and what a job does on its
nodes."""
