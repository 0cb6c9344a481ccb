import copy

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer.backbones import pool
from sktransfer.backbones.words.table import WordTable
from sktransfer.backbones.wordvectors import load_word_vectors
from tests.backbones.words.support import MATRIX, VECTORS


def train(table, ids, steps=3):
    optimizer = torch.optim.SGD(table.parameters(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        table(ids).square().sum().backward()
        optimizer.step()


IDS = torch.tensor([[1, 4, 0, 4], [0, 0, 0, 0], [12, 3, 2, 0]])


def tables_to_look_up():
    table = load_word_vectors(VECTORS).stages["embedding"]
    return {
        "shared": table,
        "own rows": table.restricted(np.array([1, 2, 3, 4, 12])),
        "some own rows": table.restricted(np.array([3, 4])),
        "weights": table.with_weights(np.ones(13)),
    }


@pytest.mark.parametrize("kind", tables_to_look_up())
def test_ids_map_to_vectors_and_id_0_maps_to_zero(kind):
    table = tables_to_look_up()[kind]
    expected = np.vstack([np.zeros(5, np.float32), MATRIX])[IDS.numpy()]
    np.testing.assert_array_equal(table(IDS).detach().numpy(), expected)
    assert table(IDS).dtype == torch.float32
    single = torch.nn.functional.pad(IDS[..., None], (0, 7))
    np.testing.assert_array_equal(table(single).detach().numpy(), expected)
    assert table(torch.zeros(2, 8, 16, dtype=torch.int64)).abs().sum() == 0
    with pytest.raises(IndexError):
        table(torch.tensor([[13]]))


@pytest.mark.parametrize("shape", [(40, 16), (40, 8, 8)])
def test_fused_pooling_equals_the_stage_and_the_mean(shape):
    table = load_word_vectors(VECTORS).stages["embedding"]
    ids = torch.randint(1, 13, shape, generator=torch.Generator().manual_seed(0))
    ids[::3, 5:] = ids[0] = 0
    fused = table.fused_pooling("avg")(ids)
    expected = pool(table(ids).detach(), "avg", masked=True)
    torch.testing.assert_close(fused, expected, rtol=0, atol=1e-6)
    for i in range(len(ids)):
        assert torch.equal(table.fused_pooling("avg")(ids[i : i + 1])[0], fused[i])
    others = [table.fused_pooling("max"), table.fused_pooling(("avg", "max"))]
    others += [table.restricted([2]).fused_pooling("avg")]
    others += [table.with_weights(np.ones(13)).fused_pooling("avg")]
    assert others == [None] * 4


def test_weights_multiply_each_vector():
    weight = np.arange(13.0)
    weight[0] = np.nan  # that of no token does not matter
    table = load_word_vectors(VECTORS).stages["embedding"]
    weighted = table.with_weights(weight)
    assert weighted.vectors is table.vectors
    expected = np.vstack([np.zeros(5, np.float32), MATRIX * np.arange(1, 13)[:, None]])[IDS.numpy()]
    np.testing.assert_allclose(weighted(IDS).detach(), expected, rtol=1e-6)
    mean = weighted(torch.tensor([[[1, 2, 0]]]))[0, 0]
    np.testing.assert_allclose(mean.detach(), (MATRIX[0] + 2 * MATRIX[1]) / 2, rtol=1e-6)
    np.testing.assert_allclose(weighted.restricted([2])(IDS).detach(), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"shape \(12,\), not \(13,\)"):
        table.with_weights(np.ones(12))


def test_a_restricted_table_trains_only_its_rows():
    table = load_word_vectors(VECTORS).stages["embedding"]
    restricted = table.restricted(np.array([4, 0, 1, 4]))
    assert restricted.index.tolist() == [1, 4]
    assert [name for name, _ in restricted.named_parameters()] == ["rows"]
    every = torch.arange(13)[None]
    assert torch.equal(restricted(every), table(every))
    train(restricted, IDS)
    moved = (restricted(every) != table(every)).any(-1)[0]
    assert moved.nonzero().flatten().tolist() == [1, 4]
    np.testing.assert_array_equal(table(every)[0, 1:].detach(), MATRIX)
    again = restricted.restricted(np.array([4, 5]))  # what was learned is where it goes on from
    assert torch.equal(again(torch.tensor([[4, 5]])), restricted(torch.tensor([[4, 5]])))


def test_gradients_reach_own_rows_beside_shared_ones():
    restricted = load_word_vectors(VECTORS).stages["embedding"].restricted(np.array([3, 12]))
    restricted(IDS).sum().backward()
    assert restricted.rows.grad.tolist() == [[1.0] * 5] * 2


def test_a_state_dict_contains_the_ids_of_trained_rows():
    table = load_word_vectors(VECTORS).stages["embedding"]
    trained = nn.Sequential(table.restricted(np.array([1, 4])))
    train(trained, IDS)
    state = trained.state_dict()
    assert state.keys() == {"0.index", "0.rows"}
    assert sum(tensor.numel() for tensor in state.values()) == 2 + 2 * 5
    for fresh in (table, table.restricted(np.array([7, 8, 9]))):
        loaded = nn.Sequential(copy.deepcopy(fresh))
        parameter = loaded[0].rows
        loaded.load_state_dict(state)
        assert loaded[0].rows is parameter
        assert torch.equal(loaded(IDS), trained(IDS))
    assert len(table.index) == 0


def test_copies_share_the_vectors():
    vectors = load_word_vectors(VECTORS).preprocess.vectors
    table = WordTable(vectors)
    other = copy.deepcopy(nn.Sequential(table).to(torch.float64).float())[0]
    assert other.vectors is vectors
    assert other is not table
    assert copy.copy(vectors) is vectors
    assert sum(p.numel() for p in other.parameters()) == 0
