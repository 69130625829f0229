"""Tests run tiny nets: a second thread costs more than it gives, most of all beside other work."""

import logging

import torch

torch.set_num_threads(1)
logging.getLogger("torch.__trace").propagate = False  # TorchDynamo's own diary: pytest would collect all of it
