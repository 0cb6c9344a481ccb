"""Imported by every Python that a test starts: connections to other machines are blocked in it."""

import importlib.util
from pathlib import Path

path = Path(__file__).parents[1] / "offline.py"
spec = importlib.util.spec_from_file_location("sktransfer_tests_offline", path)
offline = importlib.util.module_from_spec(spec)
spec.loader.exec_module(offline)
offline.ALLOWED["this machine"] = True  # where workers of a cluster are
offline.block_network()
