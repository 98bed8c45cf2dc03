"""All that a training run imports on its way, so that forked children need not."""

import scipy.ndimage
import skimage.metrics
import torch._dynamo  # by torch.optim, when the first optimizer is made

import tests.training.runs

__all__ = ["scipy", "skimage", "tests", "torch"]
