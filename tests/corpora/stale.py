"""Ways in which code changes between two runs without a change in what refers to it.

Each way is a project in two versions, 2 and 3, that computes features with a store. A program runs
all projects of one version; another process runs those of the other, with the same stores. A way is
*stale* if features from the store are not those that are computed without it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

from tests.new_process import run_in_new_process

__all__ = ["EVERYDAY", "WAYS", "find_stale"]

# Definitions of a function ``factor`` that returns the number of the version, ``VERSION``. Another
# file of the project begins with its name.
HELPERS = {
    "global": "VALUE = VERSION\ndef factor(): return VALUE",
    "cache": "import functools\n@functools.cache\ndef factor(): return VERSION",
    "lru_cache": "import functools\n@functools.lru_cache(maxsize=2)\ndef factor(): return VERSION",
    "wraps of a library": """
import functools, numpy as np
@functools.wraps(np.square)
def factor(): return VERSION
""",
    "import inside": """
def factor():
    from NAME_helper import value
    return value()
# file NAME_helper.py
def value(): return VERSION
""",
    "package": """
import NAME_pack.gem
def factor(): return NAME_pack.gem.value()
# file NAME_pack/__init__.py
# file NAME_pack/gem.py
def value(): return VERSION
""",
    "package under another name": """
import NAME_pack.gem as gem
def factor(): return gem.value()
# file NAME_pack/__init__.py
# file NAME_pack/gem.py
from NAME_pack.inner import hidden
def value(): return hidden()
# file NAME_pack/inner.py
def hidden(): return VERSION
""",
    "module by name": """
import importlib
def factor(): return importlib.import_module("NAME_helper").value()
# file NAME_helper.py
def value(): return VERSION
""",
    "getattr of a module": """
import NAME_helper
def factor(): return getattr(NAME_helper, "va" + "lue")()
# file NAME_helper.py
def value(): return VERSION
""",
    "getattr in a module": """
import NAME_helper
def factor(): return NAME_helper.anything
# file NAME_helper.py
def __getattr__(name): return VERSION
""",
    "globals": 'def value(): return VERSION\ndef factor(): return globals()["value"]()',
    "eval": 'def value(): return VERSION\ndef factor(): return eval("val" + "ue()")',
    "exec": """
space = {}
exec("def value(): return VERSION", space)
def factor(): return space["value"]()
""",
    "default argument": """
import functools
@functools.cache
def value(): return VERSION
def factor(value=value): return value()
""",
    "keyword default": "def value(): return VERSION\ndef factor(*, how=[value]): return how[0]()",
    "attribute of a function": "def factor(): return factor.value\nfactor.value = VERSION",
    "SimpleNamespace": """
import types
holder = types.SimpleNamespace(value=VERSION)
def factor(): return holder.value
""",
    "slots dataclass": """
import dataclasses
@dataclasses.dataclass(slots=True, repr=False)
class Holder:
    value: int
    def __repr__(self): return "Holder"
holder = Holder(VERSION)
def factor(): return holder.value
""",
    "slots": """
class Holder:
    __slots__ = ("value",)
    def __repr__(self): return "Holder"
holder = Holder()
holder.value = VERSION
def factor(): return holder.value
""",
    "NamedTuple": """
from typing import NamedTuple
class Holder(NamedTuple):
    name: str = "a"
    def value(self): return VERSION
holder = Holder()
def factor(): return holder.value()
""",
    "singledispatch": """
import functools
@functools.singledispatch
def value(x): return 1
@value.register
def _(x: int): return VERSION
def factor(): return value(1)
""",
    "singledispatchmethod": """
import functools
class Holder:
    @functools.singledispatchmethod
    def value(self, x): return 1
    @value.register
    def _(self, x: int): return VERSION
holder = Holder()
def factor(): return holder.value(1)
""",
    "long array in slots": """
import pandas as pd
series = pd.Series([1.0] * 500 + [VERSION] + [1.0] * 500)
def factor(): return float(series[500])
""",
    "array of objects": """
import numpy as np
array = np.empty(3000, object)
array[:] = [lambda: 1] * 1500 + [lambda: VERSION] + [lambda: 1] * 1499
def factor(): return array[1500]()
""",
    "long regular expression": """
import re
pattern = re.compile("a" * 300 + "{2,VERSION}" + "b" * 300)
def factor(): return 2 + bool(pattern.match("a" * 302 + "b" * 300))
""",
    "mask of an array": """
import numpy as np
array = np.ma.array([2.0, 3.0], mask=[VERSION == 3, VERSION == 2])
def factor(): return float(array.mean())
""",
    "sparse matrix": """
import numpy as np, scipy.sparse
matrix = scipy.sparse.csr_array(np.diag([1.0] * 2000 + [VERSION]))
def factor(): return float(matrix[2000, 2000])
""",
    "sparse tensor": """
import torch
def make(tensor):
    def factor(): return float(tensor.sum())
    return factor
factor = make((torch.eye(1) * VERSION).to_sparse())
""",
    "conjugated tensor": """
import torch
def make(tensor):
    def factor(): return float(tensor.real.sum())
    return factor
factor = make(torch.tensor([VERSION + 1j]).conj())
""",
    "partial of a cached function": """
import functools
@functools.cache
def value(x): return VERSION
factor = functools.partial(value, 1)
""",
    "partialmethod": """
import functools
class Holder:
    def value(self, x): return x
    fixed = functools.partialmethod(value, VERSION)
holder = Holder()
def factor(): return holder.fixed()
""",
    "cached_property": """
import functools
class Holder:
    @functools.cached_property
    def value(self): return VERSION
holder = Holder()
def factor(): return holder.value
""",
    "descriptor": """
class Descriptor:
    __slots__ = ()
    def __get__(self, item, cls): return VERSION
class Holder:
    value = Descriptor()
holder = Holder()
def factor(): return holder.value
""",
    "metaclass": """
class Meta(type):
    def __call__(cls): return VERSION
class Holder(metaclass=Meta): pass
def factor(): return Holder()
""",
    "__init_subclass__": """
known = {}
class Base:
    def __init_subclass__(cls): known[cls.__name__] = cls
class Child(Base):
    @staticmethod
    def value(): return VERSION
def factor(): return known["Child"].value()
""",
    "cached classmethod": """
import functools
class Holder:
    @classmethod
    @functools.cache
    def value(cls): return VERSION
def factor(): return Holder.value()
""",
    "operator": """
class Number:
    def __init__(self): self.x = 1
    def __rmul__(self, other): return other * VERSION
def factor(): return 1 * Number()
""",
    "methodcaller": """
import operator
class Holder:
    def value(self): return VERSION
call, holder = operator.methodcaller("value"), Holder()
def factor(): return call(holder)
""",
    "dictionary of functions": 'table = {"a": lambda: VERSION}\ndef factor(): return table["a"]()',
    "defaultdict": """
import collections
table = collections.defaultdict(lambda: VERSION)
def factor(): return table["a"]
""",
    "mapping proxy": """
import types
table = types.MappingProxyType({"a": VERSION})
def factor(): return table["a"]
""",
    "deque": """
import collections
queue = collections.deque([VERSION])
def factor(): return queue[0]
""",
    "weak reference": """
import weakref
class Holder: value = VERSION
holder = Holder()
reference = weakref.ref(holder)
def factor(): return reference().value
""",
    "context variable": """
import contextvars
variable = contextvars.ContextVar("variable", default=VERSION)
def factor(): return variable.get()
""",
    "generator": "def values():\n    yield VERSION\ndef factor(): return next(values())",
    "context manager": """
import contextlib
@contextlib.contextmanager
def value(): yield VERSION
def factor():
    with value() as found: return found
""",
    "enum": """
import enum
class Kind(enum.Enum):
    A = "a"
    @property
    def number(self): return VERSION
def factor(): return Kind.A.number
""",
    "file": """
import json, pathlib
def factor(): return json.loads(pathlib.Path(__file__).with_suffix(".json").read_text())
# file NAME.json
VERSION
""",
    "pickle": """
import pathlib, pickle
def factor(): return pickle.loads(pathlib.Path(__file__).with_suffix(".pickle").read_bytes())
# file NAME.pickle
IVERSION
.
""",
    "registry": """
import NAME_registry, NAME_plugin
def factor(): return NAME_registry.KNOWN["a"]()
# file NAME_registry.py
KNOWN = {}
# file NAME_plugin.py
import NAME_registry
NAME_registry.KNOWN["a"] = lambda: VERSION
""",
    "patched library": """
import statistics
statistics.NAME = lambda: VERSION
def factor(): return statistics.NAME()
""",
    "environment": """
import os
os.environ["NAME"] = "VERSION"
def factor(): return int(os.environ["NAME"])
""",
    "random numbers": """
import numpy as np
def factor(): return float(np.random.default_rng(VERSION).random())
""",
    "iterator": """
import itertools
values = itertools.repeat(VERSION)
def factor(): return next(values)
""",
    "buffer": """
import array
values = array.array("d", [1.0] * 999 + [VERSION])
def factor(): return values[999]
""",
    "Decimal": """
import decimal
value = decimal.Decimal(VERSION)
def factor(): return float(value)
""",
    "module of torch": """
import torch
layer = torch.nn.Linear(1, 1, bias=False)
torch.nn.init.constant_(layer.weight, VERSION)
def factor(): return layer.weight.item()
""",
    "callback": """
import re
def value(match): return "VERSION"
def factor(): return int(re.sub("x", value, "x"))
""",
    "sorted by a key": """
class Key:
    __slots__ = ()
    def __call__(self, x): return -x if VERSION == 2 else x
key = Key()
def factor(): return max([2, 3], key=key)
""",
    "thread": """
import concurrent.futures
def value(): return VERSION
def factor():
    with concurrent.futures.ThreadPoolExecutor(1) as pool: return pool.submit(value).result()
""",
}

# What uses the function.
USERS = {
    "pooling": """
def pooling(x): return x.mean((2, 3)) * factor()
def make(): return tiny_backbone(), pooling
""",
    "preprocessing": """
def preprocess(image): return TINY_SIZE(np.asarray(image)) * factor()
def make(): return tiny_backbone(preprocess=preprocess), "avg"
""",
    "network": """
class Net(TinyNet):
    def forward(self, x): return super().forward(x * factor())
def make(): return load_backbone(Net(), preprocess=TINY_SIZE), "avg"
""",
}

# Networks and objects that are changed themselves.
OTHERS = {
    "attribute of a scripted module": """
class Net(TinyNet):
    def __init__(self):
        super().__init__()
        self.factor = float(VERSION)
class Scaled(torch.nn.Module):
    factor: float
    def __init__(self):
        super().__init__()
        self.net, self.factor = TinyNet(), float(VERSION)
    def forward(self, x): return self.net(x * self.factor)
def make(): return load_backbone(torch.jit.script(Scaled()), preprocess=TINY_SIZE), "avg"
""",
    "constant of a traced module": """
class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = TinyNet()
    def forward(self, x): return self.net(x * torch.full((1, 1, 16, 16), float(VERSION)))
def make():
    traced = torch.jit.trace(Scaled().eval(), torch.zeros(2, 3, 16, 16))
    return load_backbone(traced, preprocess=TINY_SIZE), "avg"
""",
    "function of a GraphModule": """
def value(x): return x * VERSION
torch.fx.wrap("value")
class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = TinyNet()
    def forward(self, x): return self.net(value(x))
def make():
    return load_backbone(torch.fx.symbolic_trace(Scaled().eval()), preprocess=TINY_SIZE), "avg"
""",
    "NamedTuple as pooling": """
from typing import NamedTuple
class Pooling(NamedTuple):
    name: str = "a"
    def __call__(self, x): return x.mean((2, 3)) * VERSION
def make(): return tiny_backbone(), Pooling()
""",
    "hook": """
import functools
def value(): return VERSION
@functools.cache
def cached(): return value()
def make():
    net = TinyNet()
    net[0].register_forward_hook(lambda module, args, output: output * cached())
    return load_backbone(net, preprocess=TINY_SIZE), "avg"
""",
    "parametrization": """
import functools
from torch.nn.utils import parametrize
class Scale(torch.nn.Module):
    @functools.wraps(torch.relu)
    def forward(self, x): return x * VERSION
def make():
    net = TinyNet()
    parametrize.register_parametrization(net[0], "weight", Scale())
    return load_backbone(net, preprocess=TINY_SIZE), "avg"
""",
    "function of autograd": """
class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x * VERSION
class Net(TinyNet):
    def forward(self, x): return super().forward(Scale.apply(x))
def make(): return load_backbone(Net(), preprocess=TINY_SIZE), "avg"
""",
    "stages": """
import functools
class Scale(torch.nn.Module):
    @functools.wraps(torch.relu)
    def forward(self, x): return x * VERSION
def make():
    net = torch.nn.Sequential(Scale(), *TinyNet())
    return load_backbone(net, stages=list(net), preprocess=TINY_SIZE), "avg"
""",
    "registered network": """
import functools
from sktransfer import register_backbone
@functools.cache
def value(): return VERSION
class Net(TinyNet):
    def forward(self, x): return super().forward(x * value())
register_backbone("NAME", Net, preprocess=TINY_SIZE)
def make(): return "NAME", "avg"
""",
    "transform of torchvision": """
import functools
from torchvision.transforms import v2
@functools.cache
def value(): return VERSION
def make():
    scale = functools.wraps(v2.functional.resize)(lambda x: x * value())
    steps = [v2.ToImage(), v2.Resize((16, 16)), v2.ToDtype(torch.float32), v2.Lambda(scale)]
    return tiny_backbone(preprocess=v2.Compose(steps)), "avg"
""",
    "several poolings": """
import functools
@functools.cache
def value(): return VERSION
def pooling(x): return x.mean((2, 3)) * value()
def make(): return tiny_backbone(), ["avg", pooling]
""",
}

_HEAD = """import numpy as np, torch
from sktransfer import load_backbone
from tests.support import TINY_SIZE, TinyNet, tiny_backbone
"""
WAYS = {
    f"{helper}, {user}": code + "\n# file here\n" + USERS[user]
    for user in USERS
    for helper, code in HELPERS.items()
} | OTHERS

#: Those that are run every day.
EVERYDAY = [
    "cache, pooling",
    "wraps of a library, preprocessing",
    "import inside, network",
    "sparse tensor, pooling",
    *("NamedTuple as pooling", "registered network", "several poolings"),
    *("attribute of a scripted module", "constant of a traced module", "function of a GraphModule"),
]

_PROGRAM = """
import importlib, json, sys, warnings
from pathlib import Path
import numpy as np
from sktransfer import PretrainedFeatureExtractor

images = np.random.RandomState(0).randint(0, 255, (4, 20, 20, 3), dtype=np.uint8)
folder, stores, names = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
sys.path.insert(0, str(folder))

def features(project, memory):
    backbone, pooling = project.make()
    layer = "2" if callable(pooling) or isinstance(pooling, list) else None
    model = PretrainedFeatureExtractor(backbone, layer=layer, pooling=pooling, memory=memory)
    return model.fit_transform(images)

found = {}
warnings.simplefilter("ignore")
for name in names:
    project = importlib.import_module(name)
    expected = features(project, None)
    try:
        stored = features(project, stores / name)
        again = features(project, stores / name)
    except ValueError as error:
        assert "cannot be part of a cache key" in str(error), (name, error)
        found[name] = "refused", expected.tolist()
        continue
    scale = np.linalg.norm(expected)
    distance = max(np.linalg.norm(one - expected) for one in (stored, again)) / scale
    found[name] = "right" if distance < 1e-5 else "stale", expected.tolist()
print(json.dumps(found))
"""


def find_stale(root: Path, ways: Collection[str]) -> dict[str, str]:
    """Run some ways in two processes and return the outcome of each.

    Parameters
    ----------
    root : Path
        An empty folder.
    ways : collection of str

    Returns
    -------
    dict of str to {"right", "refused", "stale"}

    Raises
    ------
    AssertionError
        If the two versions of a way compute the same without a store.
    """
    names = {f"way{number}": way for number, way in enumerate(ways)}
    found = []
    for version in (2, 3):
        for name, way in names.items():
            for path, text in _files(name, way, version):
                file = root / str(version) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        args = root / str(version), root / "stores", json.dumps(list(names))
        found.append(json.loads(run_in_new_process(_PROGRAM, *args)))
    first, second = found
    same = [way for name, way in names.items() if first[name][1] == second[name][1]]
    assert not same, f"these compute the same in both versions: {same}"
    return {way: second[name][0] for name, way in names.items()}


def _files(name: str, way: str, version: int) -> Iterator[tuple[str, str]]:
    """Yield the files of a project: their names and contents."""
    main, *others = (
        WAYS[way].replace("NAME", name).replace("VERSION", str(version)).split("# file ")
    )
    for part in others:
        path, _, text = part.partition("\n")
        if path == "here":
            main += text
        else:
            yield path, text
    yield f"{name}.py", _HEAD + main
