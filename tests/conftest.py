"""Tests run tiny nets: a second thread costs more than it gives, most of all beside other work."""

import torch

torch.set_num_threads(1)
