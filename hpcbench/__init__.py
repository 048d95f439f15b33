"""hpcbench: which distributed training strategy should I use here, by how much, and can I trust that?"""

__version__ = "0.1.0"
