"""A run on disk: the files of a results folder, their formats, and how they are read and written.

Imports no torch."""
