"""Train on several devices: each step is shared among processes, one for each device."""

from .choice import check_devices, choose_devices
from .launched import on_all_processes
from .leader import Replicas
from .link import Link, ProcessLostError
from .processes import replicas_on

__all__ = [
    "Link",
    "ProcessLostError",
    "Replicas",
    "check_devices",
    "choose_devices",
    "on_all_processes",
    "replicas_on",
]
