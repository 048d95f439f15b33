"""What the processes of a probe execute.

These modules import torch; only `hpcbench.training.worker` starts them."""
