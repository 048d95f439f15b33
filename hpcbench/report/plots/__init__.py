"""The pictures of a report: one module for each picture, or for each kind where pictures share their code."""
