import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from sktransfer.data import pad_rows, padded_length


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float16])
def test_rows_that_differ_in_length_are_filled_up_with_zeros(shape, dtype):
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 9, (n, *shape)).astype(dtype) for n in (2, 5, 1)]
    padded = pad_rows(rows)
    expected = pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
    assert padded.dtype == dtype
    np.testing.assert_array_equal(padded, expected)


def test_tokens_of_several_ids_stand_beside_tokens_of_one():
    padded = pad_rows([np.array([1, 2]), np.array([[3, 4, 5]])])
    assert padded.tolist() == [[[1, 0, 0], [2, 0, 0]], [[3, 4, 5], [0, 0, 0]]]


def test_the_length_may_be_given():
    assert pad_rows([np.array([7])], padded_length(1)).tolist() == [[7] + [0] * 7]
