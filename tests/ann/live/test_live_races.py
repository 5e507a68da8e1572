"""What a search finds while rows are replaced, and what a merge leaves whose result could not be opened."""

from __future__ import annotations

import threading

import pytest

from skeg import NotFoundError, StorageError
from skeg.ann import Durability, Index
from skeg.ann.live import searching, state
from skeg.ann.live.parts import SegmentPart
from skeg.ann.live.rows import LiveRows
from skeg.ann.live.single import SingleSearch
from skeg.ann.live.view import PartSearch, View
from skeg.ann.live.writer import Writer
from skeg.ann.pipeline import Pipeline
from tests.ann.live.small import contents, limit, no_background


def vector(i, version=0):
    return [float(i), float(version), 1.0, 0.0]


def fill(index, ids, version=0):
    return index.add(list(ids), [vector(i, version) for i in ids])


@pytest.fixture
def index(tmp_path, monkeypatch):
    no_background(monkeypatch)
    with Index.create(tmp_path / "index", 4, metric="l2", kind="f32", max_degree=8) as opened:
        yield opened


@pytest.mark.parametrize("tuned", [False, True])
def test_what_was_published_is_no_leftover(index, monkeypatch, tuned):
    """Not even for an index that could not open it, and has nothing to merge."""
    limit(monkeypatch, MERGE_ROWS_MIN=8)
    fill(index, range(10))
    index.consolidate()
    real = state.State.open_part

    def open_part(*_):
        raise StorageError("x", "too many open files")

    monkeypatch.setattr(state.State, "open_part", open_part)
    with pytest.raises(StorageError, match="too many"):
        fill(index, range(20), version=1)
    monkeypatch.setattr(state.State, "open_part", real)
    index.consolidate()
    if tuned:
        index._searcher.tune({"list_size": 70})
    expected = contents(index)
    index.close()
    with Index.open(index.path) as reader:
        # The many vectors were refused, yet may be there; everything else is.
        assert contents(reader) in (expected, {i: vector(i, 1) for i in range(20)})


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("where", ["another part", "the same part"])
@pytest.mark.parametrize("k", [1, 5])
def test_a_row_that_is_replaced_during_a_search_is_found(tmp_path, monkeypatch, many, where, k):
    """The old row or the new one, if the new one is added when the search has chosen what to look at."""
    no_background(monkeypatch)
    place = View if where == "another part" else PartSearch if many else SingleSearch
    name = {(View, False): "search_one", (View, True): "search_many"}.get((place, many), "many" if many else "run")
    real = getattr(place, name)
    with Index.create(tmp_path / "index", 2, metric="l2") as index:
        index.add([1, 2], [[1, 0], [2, 0]])
        turns = []

        def meanwhile(self, *args, **options):
            if not turns:
                turns.append(1)
                if where == "another part":
                    index._engine._state.add_part()
                index.add(1, [1, 1])
            return real(self, *args, **options)

        monkeypatch.setattr(place, name, meanwhile)
        hits = index.search([[1, 1]] if many else [1, 1], k)
        assert [1, 2][:k] == hits.ids.ravel()[:2].tolist()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("merged", [False, True])
def test_a_row_that_is_being_replaced_is_found_once(tmp_path, monkeypatch, merged, exact):
    """The new row is there before the old one is gone; a search in between finds one, or waits."""
    no_background(monkeypatch)
    begun, go_on, found = threading.Event(), threading.Event(), []
    with Index.create(tmp_path / "index", 2, metric="l2") as index:
        index.add([1, 2], [[1, 0], [2, 0]])
        if merged:
            index.consolidate()
        for cls, name in ((LiveRows, "_bury"), (SegmentPart, "remove")):
            real = getattr(cls, name)

            def held(self, *args, real=real):
                begun.set()
                go_on.wait(60)
                real(self, *args)

            monkeypatch.setattr(cls, name, held)

        def search():
            for query in ([1, 1], [[1, 1]]):
                try:
                    found.append(index.search(query, 5, exact=exact).ids.ravel()[:2].tolist())
                except RecursionError as error:
                    found.append(repr(error))

        threads = [threading.Thread(target=index.add, args=(1, [1, 1])), threading.Thread(target=search)]
        threads[0].start()
        assert begun.wait(60)
        threads[1].start()
        threads[1].join(0.3)
        go_on.set()
        for thread in threads:
            thread.join()
    assert [[1, 2]] * 2 == found


def test_an_id_that_is_always_there_is_always_found(tmp_path):
    """While it is replaced over and over, and merges go on."""
    stop, failures = threading.Event(), []
    with Index.create(tmp_path / "index", 2, metric="l2", max_degree=8) as index:
        index.add(range(10), [[i, 0] for i in range(10)])

        def replace():
            version = 0
            while not stop.is_set():
                version += 1
                index.add([3, 4], [[3, version % 7], [4, version % 7]])
                if version % 5 == 0:
                    index.consolidate(threads=1)

        def look():
            while not stop.is_set():
                for kind, found in (
                    ("one", index.search([3, 0], 10).ids.tolist()),
                    ("many", index.search([[3, 0]], 10).ids[0].tolist()),
                    ("exact", index.search([3, 0], 10, exact=True).ids.tolist()),
                    ("ids", index.ids().tolist()),
                ):
                    if sorted(found) != list(range(10)):
                        failures.append((kind, sorted(found)))
                        stop.set()
                if 3 not in index or index.get([3, 4]).shape != (2, 2):
                    failures.append("get")
                    stop.set()

        threads = [threading.Thread(target=call) for call in (replace, look, look)]
        for thread in threads:
            thread.start()
        merges = index.stats()["merges"]
        while not stop.is_set() and index.stats()["merges"] < merges + 15:
            threading.Event().wait(0.01)
        stop.set()
        for thread in threads:
            thread.join()
    assert [] == failures


def test_an_update_does_not_bring_back_what_was_deleted_meanwhile(index, monkeypatch):
    fill(index, [1, 2])
    real = type(index._engine).update

    def update(*args):
        index.delete(2)  # it was there when the update looked
        return real(*args)

    monkeypatch.setattr(type(index._engine), "update", update)
    with pytest.raises(NotFoundError, match="id 2"):
        index.update([1, 2], [vector(1, 5), vector(2, 6)])
    assert [1] == index.ids().tolist()


def test_what_tuning_stored_outlives_an_emptied_index(index):
    fill(index, range(20))
    index._engine.tune({"list_size": 17})
    index.delete(list(range(20)))
    index.consolidate()
    assert 17 == index.stats()["search"]["list_size"]


def test_a_merge_does_not_keep_what_is_below_sync_waiting(tmp_path, monkeypatch):
    with Index.create(tmp_path / "index", 2, metric="l2") as index:
        index.add([1, 2], [[1, 0], [2, 0]])
        release, synced = threading.Event(), threading.Event()
        run, flush = Pipeline.run, Writer.flush
        monkeypatch.setattr(Pipeline, "run", lambda *args: (release.wait(30), run(*args))[1])

        def told(self):
            flush(self)
            synced.set()

        monkeypatch.setattr(Writer, "flush", told)
        merge = threading.Thread(target=index.consolidate)
        merge.start()
        try:
            index.add(3, [3, 0], durability=Durability.NONE)
            assert synced.wait(30)
        finally:
            release.set()
            merge.join()


@pytest.mark.parametrize("where", ["segment", "memory"])
def test_a_filter_finds_a_row_that_is_replaced_after_it_was_looked_for(index, monkeypatch, where):
    """What the filter selected is gone when the search comes to it, and what replaces it was not there yet."""
    index.add([1, 2], [vector(1), vector(2)], payloads=[{"color": "red"}, {"color": "blue"}])
    if where == "segment":
        index.consolidate()
    real = searching._found
    calls = []

    def found(*args):
        calls.append(args)
        if len(calls) == 1:
            index.update(1, vector(1, version=5))
        return real(*args)

    monkeypatch.setattr(searching, "_found", found)
    hits = index.search(vector(1), 5, filter="color=red", with_payload=True)
    assert ([1], [{"color": "red"}]) == (hits.ids.tolist(), list(hits.payloads))
    assert -25.0 == hits.scores[0]
    assert 2 == len(calls)


@pytest.mark.parametrize("first", ["vector", "payload"])
def test_updates_of_a_vector_and_its_payload_at_one_time_lose_neither(index, first):
    """Both wait for the same round; the later one leaves what the earlier one did."""
    index.add([1, 2], [vector(1), vector(2)], payloads=[{"color": "red"}, {"color": "blue"}])
    calls = [
        lambda: index.update([1, 2], [vector(1, 5), vector(2, 5)]),
        lambda: index.update([1, 2], payloads=[{"color": "green"}, {"color": "white"}]),
    ]
    writer = index._searcher._writer
    threads = [threading.Thread(target=call) for call in (calls if first == "vector" else reversed(calls))]
    with writer.lock:
        for count, thread in enumerate(threads, 1):
            thread.start()
            while len(writer._queue) < count:
                pass
    for thread in threads:
        thread.join()
    assert {1: vector(1, 5), 2: vector(2, 5)} == contents(index)
    assert [{"color": "green"}, {"color": "white"}] == index.payloads([1, 2])


def test_filters_are_remembered_while_others_are(index):
    """Another thread selects with its filter in the middle of counting what is remembered."""
    fill(index, range(20))
    for i in range(10):
        index.search(vector(1), filter=[i])
    held = [part._selections for part in index._engine.view.searches]
    assert all(held)

    class Meddling:
        @property
        def nbytes(self):
            for selections in held:
                selections[object()] = self
            return 0

    for selections in held:
        selections[0] = Meddling()
    assert [15] == index.search(vector(15), filter=[15]).ids.tolist()
