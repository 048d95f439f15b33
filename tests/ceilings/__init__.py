"""Tests of ceilings, fits and predictions."""
