"""Values of options that several rooms share; imports nothing, so help texts can use them."""

from typing import Literal

Depth = Literal["full", "half", "quarter"]
"""Share of the blocks that a network with several depths executes."""

Precision = Literal["fp32", "bf16"]
"""Floating-point arithmetic of a network."""

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
"""Program that shows the curves of trainings."""

DEVICES = "must be auto, cpu, cuda or cuda:N"
"""Names of devices, as an error says them."""

PrecisionChoice = Literal["auto", "fp32", "bf16"]
"""Precision as a user asks for it; auto: bf16 where the hardware has it."""
