"""Folders on disks that are full or cannot be written."""

import os
import subprocess

import pytest


def mount(*command):
    """Mount a file system, or skip the test where that is not allowed."""
    try:
        done = subprocess.run(["mount", *map(str, command)], capture_output=True)
    except OSError as error:
        pytest.skip(f"no mount: {error}")
    if done.returncode:
        pytest.skip(f"mount is not allowed: {done.stderr.decode().strip()}")


def unmount(folder):
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=256k", "tmpfs", folder)
    yield folder
    unmount(folder)


@pytest.fixture
def make_read_only():
    """A function after which nothing in a folder can be written; it returns one to undo this."""
    made = []

    def make(folder):
        if os.geteuid():  # permissions bind everyone but root
            folder.chmod(0o555)
        else:
            mount("--bind", folder, folder)
            mount("-o", "remount,ro,bind", folder)
        made.append(folder)
        return lambda: undo(folder)

    def undo(folder):
        made.remove(folder)
        if os.geteuid():
            folder.chmod(0o755)
        else:
            unmount(folder)

    yield make
    for folder in list(made):
        undo(folder)
