"""Reads tables that others have published."""
