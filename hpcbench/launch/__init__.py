"""Execution of runs: submission, jobs, the supervisor and its ranks, and the queue of this machine.

Never imports torch."""
