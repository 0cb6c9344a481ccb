"""Random sequences of operations on a feature store, its files being damaged between them."""

import pickle
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sktransfer import FeatureStore

KEYS = st.lists(st.integers(0, 200), min_size=1, max_size=30, unique=True)
RECIPES = st.sampled_from(["one", "two"])


def value_of(recipe: str, key: int) -> np.ndarray:
    """The features of a sample, which follow from recipe and sample as those of networks do."""
    return np.random.default_rng([len(recipe) + ord(recipe[0]), key]).normal(size=7)


class Operations(RuleBasedStateMachine):
    """Put, get, open again, pickle, damage and remove; no value may be wrong."""

    folder: Path  # set by a subclass
    n_operations = 0

    @initialize()
    def begin(self):
        type(self).n_operations += 1
        self.place = self.folder / str(type(self).n_operations)
        self.stores = [FeatureStore(self.place), FeatureStore(self.place)]  # two who share it
        self.there: set[tuple[str, int]] = set()  # put, and not damaged since

    @rule(who=st.integers(0, 1), recipe=RECIPES, keys=KEYS)
    def put(self, who, recipe, keys):
        digests = [str(key).encode() for key in keys]
        self.stores[who].put(recipe, digests, np.stack([value_of(recipe, k) for k in keys]))
        self.there |= {(recipe, key) for key in keys}

    @rule(who=st.integers(0, 1), recipe=RECIPES, keys=KEYS)
    def get(self, who, recipe, keys):
        found = self.stores[who].get(recipe, [str(key).encode() for key in keys])
        for key, value in zip(keys, found, strict=True):
            if value is None:
                assert (recipe, key) not in self.there
            else:
                assert value.tobytes() == value_of(recipe, key).tobytes()

    @rule(who=st.integers(0, 1))
    def open_again(self, who):
        self.stores[who] = FeatureStore(self.place)

    @rule(who=st.integers(0, 1))
    def pickle(self, who):
        self.stores[who] = pickle.loads(pickle.dumps(self.stores[who]))

    @rule(data=st.data(), kind=st.sampled_from(["flip", "cut", "zero", "remove", "exchange"]))
    def damage(self, data, kind):
        files = [p for p in sorted(self.place.rglob("*")) if p.is_file() and p.stat().st_size]
        if not files:
            return
        path, other = (data.draw(st.sampled_from(files)) for _ in range(2))
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        if kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at:]
        elif kind == "zero":
            content[at:] = bytes(len(content) - at)
        elif kind == "exchange":
            content = bytearray(other.read_bytes())
        path.write_bytes(content)
        if kind == "remove":
            path.unlink()
        self.there = set()  # any of them may be lost

    @invariant()
    def count(self):
        type(self).n_operations += 1
