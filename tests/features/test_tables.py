import errno
import functools
import mmap
import multiprocessing
import os
import pickle
import resource
import tempfile

import numpy as np
import pytest

from sktransfer.features.output import empty_table

FLOAT = np.dtype(np.float32)


# Tables of more than 1,000 bytes lie on disk.
table_of = functools.partial(empty_table, in_memory=1000)


def in_child(action) -> str:
    """Run an action in a forked child, which a signal may kill, and return what it returns."""
    results = multiprocessing.get_context("fork").SimpleQueue()
    process = multiprocessing.get_context("fork").Process(target=lambda: results.put(action()))
    process.start()
    process.join(60)
    assert process.exitcode == 0  # negative: killed by a signal
    return results.get()


def error_of_a_table(n_bytes: int) -> str:
    try:
        table_of((n_bytes // 4,), FLOAT)[:] = 1
    except OSError as error:
        return str(error)
    return ""


def test_a_small_table_is_in_memory_and_a_large_one_in_a_file():
    small, large = table_of((10, 25), FLOAT), table_of((10, 26), FLOAT)
    assert small.base is None
    assert isinstance(large.base, mmap.mmap)
    large[:] = np.arange(260).reshape(10, 26)
    assert large.flags.writeable and large.flags.c_contiguous
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(large)), large)
    assert type(large) is np.ndarray


def test_arrays_of_objects_stay_in_memory():
    assert table_of((1000,), np.dtype(object)).base is None


def test_a_table_that_the_disk_has_no_room_for_is_an_error(small_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    assert in_child(lambda: error_of_a_table(100_000)) == ""
    message = in_child(lambda: error_of_a_table(1_200_000))
    assert message.startswith(f"[Errno {errno.ENOSPC}] 1.2 MB of temporary disk space")
    assert f"{small_disk} has 0.3 MB free" in message


def test_a_table_above_the_limit_of_file_sizes_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        return error_of_a_table(1_200_000)

    message = in_child(limited)
    assert message.startswith(f"[Errno {errno.EFBIG}] 1.2 MB of temporary disk space")
    assert str(tmp_path) in message


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, None])
def test_space_is_reserved_where_the_system_cannot_allocate_it(code, small_disk, monkeypatch):
    def refuse(*args):
        raise OSError(code, "not supported")

    if code is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    assert in_child(lambda: error_of_a_table(100_000)) == ""
    message = in_child(lambda: error_of_a_table(1_200_000))  # a signal would kill it later
    assert message.startswith(f"[Errno {errno.ENOSPC}] 1.2 MB of temporary disk space")
