"""Plugin of pytest: torch, NumPy and Pillow deprecate what the package uses, as later versions may.

python -m pytest -p tests.later_versions
"""

import functools
import warnings

import numpy as np
import PIL.Image
import torch

_DEPRECATED = [
    (torch, "from_numpy", FutureWarning),
    (torch, "stack", DeprecationWarning),
    (torch.nn.functional, "conv2d", PendingDeprecationWarning),
    (np, "asarray", DeprecationWarning),
    (np, "concatenate", FutureWarning),
    (PIL.Image, "open", DeprecationWarning),
    (PIL.Image, "fromarray", PendingDeprecationWarning),
]


def _deprecated(function, category):
    @functools.wraps(function)
    def warning(*args, **kwargs):
        warnings.warn(f"{function.__name__} is deprecated", category, stacklevel=2)
        return function(*args, **kwargs)

    return warning


for owner, name, category in _DEPRECATED:
    setattr(owner, name, _deprecated(getattr(owner, name), category))
