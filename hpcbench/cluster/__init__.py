"""Jobs: who runs what, where and when, and what became of it. Never imports torch."""
