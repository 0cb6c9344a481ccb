"""Find the device on which a network runs."""

from __future__ import annotations

import torch

__all__ = ["resolve_device"]


def resolve_device(device: str) -> torch.device:
    """Find the device that is meant, and check that it is on this machine.

    Parameters
    ----------
    device : str
        "auto" or a name that ``torch.device`` takes. "auto" is the current accelerator, or the
        CPU where there is none.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the named device is not on this machine.
    """
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found).cpu()
    except (RuntimeError, AssertionError) as error:  # also for "meta", which holds no data
        why = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} cannot be used on this machine: {why}") from None
    return found
