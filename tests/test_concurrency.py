"""Many threads, many processes and forks at one index: the serial answers, or a typed error, never a crash."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from skeg import ClosedError
from skeg.ann import Index
from tests.indexes import built, ids_of, queries, run_python

N = 600
QUERIES = 150


def answers(hits):
    return hits.ids.tolist(), hits.scores.tolist()


@pytest.mark.parametrize("kind", ["tq4", "pq"])
def test_many_threads_get_the_serial_answers(kind):
    """Single queries, batches on shared workers, other list sizes, exact search and lookups, all at a time."""
    asked = queries(QUERIES)

    def work(index, number):
        one = asked[number % QUERIES]
        return [
            answers(index.search(one, 3 + number % 5)),
            answers(index.search(one, search_list_size=10 + 7 * (number % 30))),
            answers(index.search(asked[number % 50 : number % 50 + 70], threads=1 + number % 3)),
            answers(index.search(asked[:3], exact=True, threads=1 + number % 2)),
            index.get(ids_of(N)[[number % N]]).tolist(),
            int(ids_of(N)[number % N]) in index,
        ]

    with Index.open(built(kind)) as index:
        expected = [work(index, number) for number in range(48)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: work(index, number), range(48)))
    assert expected == found


def test_threads_that_open_one_index_at_the_same_time():
    asked = queries(5)
    with Index.open(built()) as index:
        expected = answers(index.search(asked))
    barrier = threading.Barrier(6)

    def work(_):
        barrier.wait()
        with Index.open(built()) as own:
            return answers(own.search(asked))

    with ThreadPoolExecutor(6) as pool:
        assert [expected] * 6 == list(pool.map(work, range(6)))


CLOSING = """
import sys, threading
import numpy as np
from skeg import ClosedError
from skeg.ann import Index

queries = np.load(sys.argv[2])
expected = Index.open(sys.argv[1]).search(queries).ids.tolist()
unexpected, finished, closed = [], [], []

def search(index, started, number):
    calls = [
        lambda: index.search(queries).ids.tolist(),
        lambda: [index.search(query).ids.tolist() for query in queries],
        lambda: index.search(queries, exact=True) and expected,
        lambda: index.get(index.ids()[:5]) is not None and expected,
    ]
    try:
        while True:
            if calls[number % 4]() != expected:
                unexpected.append("another answer")
            finished.append(number)
            started.set()
    except ClosedError:
        closed.append(number)
    except BaseException as error:
        unexpected.append(repr(error))

for _ in range(25):
    index, events = Index.open(sys.argv[1]), [threading.Event() for _ in range(4)]
    threads = [threading.Thread(target=search, args=(index, e, i)) for i, e in enumerate(events)]
    for thread in threads:
        thread.start()
    for event in events:
        event.wait()
    index.close()
    for thread in threads:
        thread.join()
assert not unexpected, unexpected
assert len(closed) == 100
print("survived")
"""


def test_closing_while_others_search_ends_them_with_a_typed_error(tmp_path):
    """In a process of its own, which would die if a file were unmapped below a search."""
    np.save(tmp_path / "queries.npy", queries(20))
    assert "survived\n" == run_python(CLOSING, built(), tmp_path / "queries.npy")


def test_a_closed_index_does_not_hold_up_others():
    first, second = Index.open(built()), Index.open(built())
    first.close()
    with second:
        with pytest.raises(ClosedError):
            first.search(queries()[0])
        assert 10 == len(second.search(queries()[0]))


FORK = """
import os, sys, warnings
import numpy as np
from skeg.ann import Index, build_index

warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks where threads are
index, queries = Index.open(sys.argv[1]), np.load(sys.argv[2])

def answers():
    return [
        index.search(queries, threads=2).ids.tolist(),
        index.search(queries[0]).ids.tolist(),
        index.search(queries, exact=True, threads=2).ids.tolist(),
        index.get(index.ids()[:3]).tolist(),
    ]

expected = answers()  # threads of the parent are running now
for generation in range(2):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert answers() == expected
            with build_index(queries, f"{sys.argv[3]}-{generation}", threads=2) as own:
                assert own.verify() == []
            index.close()
            status = 0
        finally:
            os._exit(status)
    assert answers() == expected
    assert os.waitpid(child, 0)[1] == 0
print("survived")
"""


def test_parent_and_child_search_and_build_after_a_fork(tmp_path):
    np.save(tmp_path / "queries.npy", queries(QUERIES))
    assert "survived\n" == run_python(FORK, built(), tmp_path / "queries.npy", tmp_path / "own")


PROCESSES = """
import concurrent.futures, multiprocessing, sys
import numpy as np
from skeg.ann import Index

def search(index, queries):
    return index.search(queries).ids.tolist()

if __name__ == "__main__":
    index, queries = Index.open(sys.argv[1]), np.load(sys.argv[2])
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        found = list(pool.map(search, [index] * 4, [queries] * 4))
    assert found == [search(index, queries)] * 4
    print("survived")
"""


def test_an_index_is_handed_to_other_processes(tmp_path):
    np.save(tmp_path / "queries.npy", queries(5))
    assert "survived\n" == run_python(PROCESSES, built(), tmp_path / "queries.npy")
