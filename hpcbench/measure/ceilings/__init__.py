"""What this node can do at most, measured: model alone, loader alone, link, copies, matrix products."""
