"""Methods that are wrong, so that one can see what their mistakes look like. Never ranked.

Each makes a mistake that published comparisons have made; docs/audit.md names the rule that finds it. They
run only with `teaching: true`, and sweeps/mistakes.yaml has them all.
"""
