import copy
import pickle

import pytest
import torch

from tests.backbones.encoder_support import CUT, FAMILIES, TEXTS, load, run, token_vectors


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_give_what_transformers_gives(family, folders):
    backbone = load(folders[family])
    last = list(backbone.stages)[-2]
    expected = [token_vectors(folders[family], text) for text in TEXTS]
    for row, known in zip(run(backbone, TEXTS, until=last), expected, strict=True):
        torch.testing.assert_close(row[: len(known)], known, rtol=1e-5, atol=1e-5)
    for row, known in zip(run(backbone, TEXTS), expected, strict=True):
        torch.testing.assert_close(row, known.mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_is_cut_at_its_blocks(family, folders):
    backbone = load(folders[family])
    ending = ["norm"] * FAMILIES[family][-1]
    assert list(backbone.stages) == ["embeddings", "layer.0", "layer.1", *ending, "sentence"]
    assert backbone.modality.name == "text"
    for name, stage in backbone.stages.items():
        assert backbone.module.get_submodule(name) is stage
    ids = backbone.preprocess(TEXTS[0])[None]
    with torch.no_grad():
        assert torch.equal(backbone.module(ids)[0], run(backbone, TEXTS[:1])[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_without_a_token_are_zero_after_every_stage(family, folders):
    backbone = load(folders[family])
    x = torch.stack([backbone.preprocess(TEXTS[0]), torch.zeros(8, dtype=torch.int64)])
    tokens = x > 0
    tokens[0, 5:] = x[0, 5:] = 0
    for stage in list(backbone.stages.values())[:-1]:
        x = stage(x)
        assert torch.equal((x != 0).any(-1), tokens)
    assert torch.equal(backbone.stages["sentence"](x)[1], torch.zeros(16))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_the_others_of_its_batch(family, folders):
    backbone = load(folders[family])
    generator = torch.Generator().manual_seed(0)
    full, short, other = torch.randint(1, 17, (3, 16), generator=generator).unbind()
    short[9:] = 0
    alike, mixed = torch.stack([full, full, full]), torch.stack([other, full, short])
    with torch.inference_mode():
        one, other = backbone.module(alike)[1], backbone.module(mixed)[1]
    tolerance = 0 if family in CUT else 1e-6
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_of_a_long_text_run_alone_and_are_pooled_together(family, folders):
    backbone = load(folders[family])
    longest = backbone.preprocess.chunk_length
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 17, (1, 2 * longest + 8), generator=generator)
    ids[:, -5:] = ids[:, longest - 1] = 0  # a chunk may be padded, too
    with torch.no_grad():
        alone = list(ids.split(longest, 1))
        vectors = ids
        for name, stage in backbone.stages.items():
            alone = alone if name == "sentence" else [stage(x) for x in alone]
            vectors = vectors if name == "sentence" else stage(vectors)
        assert torch.equal(vectors, torch.cat(alone, 1))
        pooled = backbone.stages["sentence"](vectors)
        means = torch.cat([backbone.stages["sentence"](x) for x in alone])
    weights = torch.tensor([[longest - 1.0], [longest], [3]])
    torch.testing.assert_close(pooled[0], (means * weights).sum(0) / weights.sum())


@torch.no_grad()
def test_a_short_text_in_a_batch_of_long_ones_is_what_it_is_alone(folders):
    backbone = load(folders["bert"])
    longest = backbone.preprocess.chunk_length
    short = torch.zeros(1, longest + 8, dtype=torch.int64)
    short[:, :5] = 3
    batch = torch.cat([short, torch.full_like(short, 2)])
    torch.testing.assert_close(backbone.module(batch)[:1], backbone.module(short[:, :8]))


def test_padding_tokens_written_in_a_text_are_tokens(folders):
    text = "the [PAD] cat"
    (row,) = run(load(folders["bert"]), [text])
    torch.testing.assert_close(row, token_vectors(folders["bert"], text).mean(0))


@pytest.mark.parametrize("family", CUT)
def test_a_copy_of_a_stage_contains_only_that_stage(family, folders):
    backbone = load(folders[family])
    stage = backbone.stages["layer.1"]
    twin = copy.deepcopy(stage)
    n_own = sum(p.numel() for p in stage.parameters())
    assert len(pickle.dumps(twin)) < 4 * n_own + 30_000
    x = backbone.stages["embeddings"](backbone.preprocess(TEXTS[0])[None])
    assert torch.equal(twin(x), stage(x))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert all(p.abs().sum() > 0 for p in backbone.module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_parameter_of_trained_stages(family, folders):
    backbone = load(folders[family])
    trained = torch.nn.Sequential(*copy.deepcopy(list(backbone.stages.values()))).train()
    trained(backbone.preprocess(TEXTS[3])[None]).square().sum().backward()
    for name, parameter in trained.named_parameters():
        assert parameter.grad is not None, name
        if parameter.ndim > 1:
            assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in backbone.module.parameters())


def test_dropout_is_on_in_training_only(folders):
    backbone = load(folders["bert"])
    x = backbone.stages["embeddings"](backbone.preprocess(TEXTS[0])[None])
    block = copy.deepcopy(backbone.stages["layer.0"])
    assert torch.equal(block(x), block(x))
    block.train()
    assert not torch.equal(block(x), block(x))
