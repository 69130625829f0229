"""What a program is made of, while it is written."""

from typing import Any

Operator = Any  # of ``torch.ops``, or ``getitem``
Value = Any  # a node, or a Python number that broadcasts; a list for several outputs; None where there is none
