import gc
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.base import clone

import sktransfer
from sktransfer.features import store as store_module
from sktransfer.features.store import FeatureStore, as_store

ROW = 64 + 400  # bytes of 100 float32 and their header

# Other processes need no torch: store.py and disk.py stand alone, without their packages.
WRITER = """
import os, sys, types
import numpy as np
for name in ("sktransfer", "sktransfer.data", "sktransfer.features"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [os.path.join(os.environ["ROOT"], *name.split("."))]
from sktransfer.features.store import FeatureStore
assert "torch" not in sys.modules
store = FeatureStore(sys.argv[1])
who = int(sys.argv[2])
print("ready", flush=True)
for i in range(int(sys.argv[3])):
    digests = [f"{who}/{i}/{k}".encode() for k in range(5)]
    store.put("own", digests, np.full((5, 300), who * 1000 + i, np.float32))
    store.put("common", [str(i).encode()], np.full((1, 300), i, np.float32))
"""


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store")


def rows(*numbers):
    return np.repeat(np.array(numbers, np.float32)[:, None], 100, axis=1)


def closed_store(location, digests, values) -> Path:
    """The file of a store that no process has open."""
    store = FeatureStore(location)
    store.put("recipe", digests, values)
    path = store.path
    del store
    gc.collect()
    assert [file.name for file in location.iterdir()] == [path.name]
    return path


def writer(location, who=0, n=20):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(location), str(who), str(n)],
        env=os.environ | {"ROOT": str(Path(sktransfer.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8, np.int64, bool])
@pytest.mark.parametrize("shape", [(3, 5), (3,), (3, 2, 4, 1), (3, 0), (3, 4, 0, 2)])
def test_values_come_back_with_their_shape_type_and_bits(store, shape, dtype):
    values = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    store.put("recipe", [b"a", b"b", b"c"], values)
    found = store.get("recipe", [b"c", b"a", b"b"])
    assert all(value.dtype == dtype for value in found)
    assert [v.tobytes() for v in found] == [values[i].tobytes() for i in (2, 0, 1)]
    assert [v.shape for v in found] == [shape[1:]] * 3


def test_not_a_number_and_infinity_are_values_too(store):
    values = np.array([[np.nan, np.inf, -0.0]], np.float32)
    store.put("recipe", [b"a"], values)
    assert store.get("recipe", [b"a"])[0].tobytes() == values.tobytes()


def test_what_is_not_there_is_none(store):
    store.put("recipe", [b"a"], rows(1))
    found = store.get("recipe", [b"b", b"a", b"b"])
    assert found[0] is found[2] is None
    assert np.array_equal(found[1], rows(1)[0])


def test_another_recipe_is_another_entry(store):
    store.put("one", [b"a"], rows(1))
    store.put("two", [b"a"], rows(2))
    assert [store.get(recipe, [b"a"])[0][0] for recipe in ("one", "two")] == [1, 2]
    assert store.get("three", [b"a"]) == [None]


def test_the_last_value_put_counts(store):
    store.put("recipe", [b"a"], rows(1))
    store.put("recipe", [b"a"], rows(2))
    assert store.get("recipe", [b"a"])[0][0] == 2
    assert len(store) == 1


def test_more_samples_than_one_query_takes(store):
    digests = [i.to_bytes(4, "big") for i in range(1501)]
    store.put("recipe", digests, np.arange(1501.0)[:, None])
    found = store.get("recipe", digests[::-1])
    assert [value[0] for value in found] == list(range(1500, -1, -1))


def test_values_outlive_the_store_that_put_them(store):
    store.put("recipe", [b"a"], rows(1))
    again = FeatureStore(str(store.location))
    assert np.array_equal(again.get("recipe", [b"a"])[0], rows(1)[0])
    assert (len(again), again.nbytes) == (1, ROW)


def test_several_processes_write_into_one_new_folder(tmp_path):
    writers = [writer(tmp_path / "new", who) for who in range(4)]
    errors = [process.communicate(timeout=100)[1] for process in writers]
    assert errors == [""] * 4
    store = FeatureStore(tmp_path / "new")
    assert len(store) == 4 * 20 * 5 + 20
    for who in range(4):
        for i in range(20):
            found = store.get("own", [f"{who}/{i}/{k}".encode() for k in range(5)])
            assert all((value == who * 1000 + i).all() for value in found)


def test_a_table_made_while_the_file_is_opened_is_not_taken_for_damage(tmp_path, monkeypatch):
    store, other = FeatureStore(tmp_path), FeatureStore(tmp_path)
    columns, calls = store_module._columns, []

    def slow(db):
        found = columns(db)
        calls.append(found)
        if len(calls) == 1:  # between the queries of the one, the other makes the table
            other.put("recipe", [b"a"], rows(1))
        return found

    monkeypatch.setattr(store_module, "_columns", slow)
    store.put("recipe", [b"b"], rows(2))
    assert len(calls) > 1
    assert [value[0] for value in store.get("recipe", [b"a", b"b"])] == [1, 2]


def test_a_store_waits_while_another_process_makes_the_file(store):
    store.location.mkdir()
    other = sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # as SQLite itself does on the way to WAL
    other.execute("CREATE TABLE other (a)")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    store.put("recipe", [b"a"], rows(1))
    assert store.get("recipe", [b"a"])[0][0] == 1


@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.2])
def test_a_killed_writer_leaves_a_store_to_read_and_write(tmp_path, seconds):
    process = writer(tmp_path, n=1_000_000)
    process.stdout.readline()
    threading.Event().wait(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=100)
    store = FeatureStore(tmp_path)
    n_before = len(store)
    for i in range(n_before // 6):
        found = store.get("own", [f"0/{i}/{k}".encode() for k in range(5)])
        assert all((value == i).all() for value in found)  # none missing, none half
    store.put("recipe", [b"a"], rows(7))
    assert store.get("recipe", [b"a"])[0][0] == 7
    assert len(store) == n_before + 1
    with sqlite3.connect(store.path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("place", [0, 10, 64, -1])
def test_a_row_with_a_flipped_byte_is_a_miss(store, place):
    store.put("recipe", [b"a", b"b"], rows(1, 2))
    with sqlite3.connect(store.path) as db:
        key, value = db.execute("SELECT key, value FROM features ORDER BY rowid").fetchone()
        damaged = bytearray(value)
        damaged[place] ^= 1
        db.execute("UPDATE features SET value = ? WHERE key = ?", [bytes(damaged), key])
    found = store.get("recipe", [b"a", b"b"])
    assert found[0] is None
    assert found[1][0] == 2
    store.put("recipe", [b"a"], rows(3))
    assert store.get("recipe", [b"a"])[0][0] == 3


@pytest.mark.parametrize("damage", ["garbage", "middle", "shortened", "empty"])
def test_a_damaged_file_is_a_miss_and_is_written_again(tmp_path, damage):
    digests = [i.to_bytes(4, "big") for i in range(400)]
    path = closed_store(tmp_path, digests, np.ones((400, 100)))
    content = path.read_bytes()
    half = len(content) // 2
    damaged = {
        "garbage": b"no database at all " * 1000,
        "middle": content[:16384] + b"\xff" * (len(content) - 16384),
        "shortened": content[:half],
        "empty": b"",
    }[damage]
    path.write_bytes(damaged)
    store = FeatureStore(tmp_path)
    assert all(v is None or (v == 1).all() for v in store.get("recipe", digests))
    store.put("recipe", digests, np.full((400, 100), 2.0))
    assert all((v == 2).all() for v in store.get("recipe", digests))
    assert all((v == 2).all() for v in FeatureStore(tmp_path).get("recipe", digests))


def test_the_least_recently_used_go_first(tmp_path):
    store = FeatureStore(tmp_path, max_bytes=3 * ROW)
    for i, name in enumerate([b"a", b"b", b"c"]):
        store.put("recipe", [name], rows(i))
    store.get("recipe", [b"a"])
    store.put("recipe", [b"d"], rows(3))
    found = store.get("recipe", [b"a", b"b", b"c", b"d"])
    assert [value is None for value in found] == [False, True, False, False]
    assert store.nbytes == 3 * ROW


def test_the_bound_holds_when_more_is_put_at_once(tmp_path):
    store = FeatureStore(tmp_path, max_bytes=3 * ROW)
    store.put("recipe", [b"a", b"b", b"c", b"d", b"e"], rows(0, 1, 2, 3, 4))
    assert (len(store), store.nbytes) == (3, 3 * ROW)


def test_clear_removes_everything_and_gives_the_disk_back(store):
    store.put("recipe", [i.to_bytes(4, "big") for i in range(1000)], np.ones((1000, 1000)))
    store.clear()
    assert (len(store), store.nbytes) == (0, 0)
    assert store.get("recipe", [bytes(4)]) == [None]
    on_disk = sum(file.stat().st_size for file in store.location.iterdir())
    assert on_disk < 1000 * 1000 * 8 / 4


def test_a_pickled_store_is_the_same_place(tmp_path):
    store = FeatureStore(tmp_path, max_bytes=10 * ROW)
    store.put("recipe", [b"a"], rows(1))
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.location, copy.max_bytes) == (tmp_path, 10 * ROW)
    assert copy.get("recipe", [b"a"])[0][0] == 1
    copy.put("recipe", [b"b"], rows(2))
    assert store.get("recipe", [b"b"])[0][0] == 2


def test_a_clone_is_the_store_itself(store):
    assert clone(store) is store


def test_a_forked_child_opens_the_file_anew(store):
    store.put("recipe", [b"a"], rows(1))

    def child():
        assert store.get("recipe", [b"a"])[0][0] == 1
        store.put("recipe", [b"b"], rows(2))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert store.get("recipe", [b"b"])[0][0] == 2


def test_threads_share_a_store(store):
    def use(who):
        for i in range(20):
            store.put("recipe", [bytes([who, i])], rows(who * i))
            assert store.get("recipe", [bytes([who, i])])[0][0] == who * i

    joblib.Parallel(4, prefer="threads")(joblib.delayed(use)(who) for who in range(4))
    assert len(store) == 80


def test_as_store_takes_all_that_scikit_learn_calls_memory(tmp_path, store):
    assert as_store(None) is None
    assert as_store(store) is store
    assert as_store(tmp_path).location == as_store(str(tmp_path)).location == tmp_path
    memory = joblib.Memory(tmp_path, verbose=0)
    assert as_store(memory).location == Path(memory.location) / "sktransfer"
    assert as_store(joblib.Memory(None)) is None


def test_a_damaged_index_gives_no_other_samples_features(tmp_path):
    digests = [str(i).encode() for i in range(40)]
    path = closed_store(tmp_path / "store", digests, rows(*range(40)))
    whole = path.read_bytes()
    rng = np.random.RandomState(0)
    for position in rng.choice(np.arange(16384, len(whole)), 150, replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randint(8)
        folder = tmp_path / "damaged"
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        (folder / path.name).write_bytes(damaged)
        found = FeatureStore(folder).get("recipe", digests)
        for i, value in enumerate(found):
            assert value is None or (value == i).all()


def test_a_row_moved_to_another_key_counts_as_absent(store):
    store.put("recipe", [b"a", b"b"], rows(1, 2))
    db = sqlite3.connect(store.path)
    db.execute("CREATE TEMP TABLE moved AS SELECT * FROM features")
    keys = [key for (key,) in db.execute("SELECT key FROM moved ORDER BY key")]
    db.execute("DELETE FROM features")
    for key, other in (keys, keys[::-1]):
        query = "INSERT INTO features SELECT ?, value, checksum, used FROM moved WHERE key = ?"
        db.execute(query, [key, other])
    db.commit()
    db.close()
    assert store.get("recipe", [b"a", b"b"]) == [None, None]


FOREIGN = {
    "another layout": "CREATE TABLE features (id INTEGER PRIMARY KEY, name TEXT)",
    "other tables": "CREATE TABLE notes (text TEXT)",
}


@pytest.mark.parametrize("layout", FOREIGN)
def test_a_database_of_another_program_is_refused_and_left_as_it_is(layout, tmp_path):
    path = tmp_path / "features.sqlite"
    db = sqlite3.connect(path)
    db.execute(FOREIGN[layout])
    db.commit()
    db.close()
    content = path.read_bytes()
    store = FeatureStore(tmp_path)
    for use in (lambda: store.put("recipe", [b"a"], rows(1)), lambda: store.get("recipe", [b"a"])):
        with pytest.raises(ValueError, match=r"features\.sqlite is a database of another program"):
            use()
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_file_that_is_no_database_is_kept_under_another_name(tmp_path):
    (tmp_path / "features.sqlite").write_text("my notes")
    with pytest.warns(UserWarning, match=r"was no database: it is called features\.damaged now"):
        FeatureStore(tmp_path).put("recipe", [b"a"], rows(1))
    assert (tmp_path / "features.damaged").read_text() == "my notes"
    assert FeatureStore(tmp_path).get("recipe", [b"a"])[0][0] == 1


def test_a_damaged_layout_of_our_own_is_made_anew(tmp_path):
    store = FeatureStore(tmp_path)
    store.put("recipe", [b"a"], rows(1))
    with sqlite3.connect(store.path) as db:
        db.execute("ALTER TABLE features RENAME COLUMN value TO valuf")
    fresh = FeatureStore(tmp_path)
    assert fresh.get("recipe", [b"a"]) == [None]
    fresh.put("recipe", [b"a"], rows(2))
    assert fresh.get("recipe", [b"a"])[0][0] == 2


def test_a_store_of_an_earlier_version_is_read(tmp_path):
    store = FeatureStore(tmp_path)
    store.put("recipe", [b"a"], rows(1))
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA application_id=0")  # it was not marked
    assert FeatureStore(tmp_path).get("recipe", [b"a"])[0][0] == 1


# where nothing can be written


@pytest.mark.parametrize("max_bytes", [None, 10 * ROW])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_store_that_cannot_be_written_is_read(is_open, max_bytes, tmp_path, make_read_only):
    other = FeatureStore(tmp_path / "store")
    other.put("recipe", [b"a"], rows(1))
    if not is_open:  # otherwise the files of WAL lie beside
        other.close()
    make_read_only(tmp_path / "store")
    store = FeatureStore(tmp_path / "store", max_bytes=max_bytes)
    assert store.get("recipe", [b"b"]) == [None]
    if not is_open:
        assert store.get("recipe", [b"a"])[0][0] == 1
        assert len(store) == 1
    with pytest.raises(sqlite3.OperationalError, match=r"features\.sqlite: attempt to write"):
        store.put("recipe", [b"b"], rows(2))
    with pytest.warns(UserWarning, match=r"cannot be written to the store") as caught:
        assert not store.try_put("recipe", [b"b"], rows(2))
        assert not store.try_put("recipe", [b"b"], rows(2))
    assert len(caught) == 1


def test_a_store_is_written_again_once_that_is_possible(tmp_path, make_read_only):
    folder = tmp_path / "store"
    other = FeatureStore(folder)
    other.put("recipe", [b"a"], rows(1))
    other.close()
    make_writable = make_read_only(folder)
    store = FeatureStore(folder)
    with pytest.warns(UserWarning, match=r"cannot be written to the store"):
        assert not store.try_put("recipe", [b"b"], rows(2))
    make_writable()
    assert store.try_put("recipe", [b"b"], rows(2))
    assert FeatureStore(folder).get("recipe", [b"b"])[0][0] == 2


def test_damage_that_cannot_be_written_is_a_miss(tmp_path, make_read_only):
    digests = [i.to_bytes(4, "big") for i in range(400)]
    path = closed_store(tmp_path / "store", digests, np.ones((400, 100)))
    content = path.read_bytes()
    path.write_bytes(content[:16384] + b"\xff" * (len(content) - 16384))
    make_read_only(tmp_path / "store")
    store = FeatureStore(tmp_path / "store")
    assert store.get("recipe", digests) == [None] * 400
    assert path.stat().st_size == len(content)


def test_a_store_on_a_full_disk_is_read_and_says_that_nothing_is_added(small_disk):
    store = FeatureStore(small_disk / "store")
    store.put("recipe", [b"a"], rows(1))
    many = [i.to_bytes(4, "big") for i in range(2000)]
    with pytest.warns(UserWarning, match="disk is full") as caught:
        assert not store.try_put("recipe", many, np.ones((2000, 100), np.float32))
        assert not store.try_put("recipe", many, np.ones((2000, 100), np.float32))
    assert len(caught) == 1
    assert store.get("recipe", [b"a", many[0]])[0][0] == 1
    assert len(store) == 1
    assert store.try_put("recipe", [b"b"], rows(2))


def test_a_store_without_room_keeps_what_it_has(store):
    store.put("recipe", [b"a"], rows(1))
    store._connect().execute("PRAGMA max_page_count=1")  # SQLite raises it to what there is
    with pytest.warns(UserWarning, match="disk is full"):
        assert not store.try_put("recipe", list(map(bytes, range(99))), np.ones((99, 999)))
    assert store.get("recipe", [b"a"])[0][0] == 1


# its parameters


@pytest.mark.parametrize("max_bytes", [-5, 0, True, 1.5, "1"])
def test_a_bound_that_is_no_number_of_bytes_is_refused(max_bytes, tmp_path):
    with pytest.raises(ValueError, match=f"max_bytes={max_bytes!r}: give a positive integer"):
        FeatureStore(tmp_path, max_bytes=max_bytes)


@pytest.mark.parametrize("location", [3, None, ""])
def test_a_location_that_is_no_path_is_refused(location):
    with pytest.raises(ValueError, match=f"location={location!r}: give the path of a folder"):
        FeatureStore(location)


def test_an_empty_path_is_no_memory():
    with pytest.raises(ValueError, match="memory='' is no folder"):
        as_store("")


def test_the_home_folder_is_meant_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for store in (as_store("~/store"), as_store(Path("~/store")), FeatureStore("~/store")):
        assert store.location == tmp_path / "home" / "store"


def test_an_error_of_the_disk_names_the_file(tmp_path):
    (tmp_path / "features.sqlite").mkdir()
    with pytest.raises(sqlite3.OperationalError, match=r"features\.sqlite"):
        FeatureStore(tmp_path).put("recipe", [b"a"], rows(1))


def test_a_place_is_the_same_wherever_the_process_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = FeatureStore("here")
    monkeypatch.chdir("/")
    store.put("recipe", [b"a"], rows(1))
    assert (tmp_path / "here").is_dir()
