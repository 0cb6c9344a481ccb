"""What several test files of backbones share."""

import safetensors.torch
import torch

SMALL = "squeezenet1_1"  # 5 MB


SMALL_FILE = "squeezenet1_1-b8a52dc0.pth"


LITES = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


def saved(tensors, path):
    save = safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save
    save(tensors, path)
    return path


def same_bits(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)
