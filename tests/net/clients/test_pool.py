from __future__ import annotations

import threading

import pytest

from skeg.errors import ClosedError, NotConnected, ParameterError
from skeg.net.clients.pool import ConnectionPool


class Client:
    """What a pool knows of one."""

    def __init__(self):
        self.closed = False

    def close(self):
        self.closed = True


def pool_of(size, timeout=5.0):
    made = []

    def make():
        made.append(Client())
        return made[-1]

    return ConnectionPool(make, size, timeout), made


def test_clients_are_made_when_they_are_needed_and_used_again():
    pool, made = pool_of(3)
    with pool:
        assert [] == made
        with pool.client() as first, pool.client() as second:
            assert [first, second] == made
        for _ in range(5):
            with pool.client() as client:
                assert client is first
        assert 2 == len(made)
    assert [True, True] == [client.closed for client in made]


def test_no_more_clients_than_the_size():
    pool, made = pool_of(1, timeout=0.01)
    lost = pytest.raises(NotConnected, match=r"none of 1 clients became free in 0\.01 s")
    with pool, pool.client(), lost, pool.client():
        pass
    assert 1 == len(made)


def test_whoever_waits_gets_the_client_that_comes_back():
    pool, made = pool_of(1)
    found = []

    def wait():
        with pool.client() as client:
            found.append(client)

    with pool:
        with pool.client():
            thread = threading.Thread(target=wait)
            thread.start()
        thread.join()
    assert made == found


def test_a_client_that_was_closed_or_lost_its_connection_is_not_lent_again():
    pool, made = pool_of(1)
    with pool:
        with pool.client() as client:
            client.close()
        with pytest.raises(NotConnected, match="gone"), pool.client():
            raise NotConnected("gone")
        with pytest.raises(ZeroDivisionError), pool.client():
            raise ZeroDivisionError
        with pool.client() as client:
            assert client is made[2]
    assert 3 == len(made)


def test_a_client_that_can_not_be_made_leaves_its_place():
    def fail():
        raise NotConnected("nobody there")

    with ConnectionPool(fail, 1) as pool:
        for _ in range(3):
            with pytest.raises(NotConnected, match="nobody there"), pool.client():
                pass


def test_a_closed_pool_closes_what_comes_back_and_lends_nothing():
    pool, made = pool_of(2)
    with pool.client():
        pool.close()
        assert not made[0].closed
    assert made[0].closed
    with pytest.raises(ClosedError), pool.client():
        pass


def test_closing_a_pool_wakes_whoever_waits():
    pool, _ = pool_of(1)
    errors = []

    def wait():
        try:
            with pool.client():
                pass
        except ClosedError as error:
            errors.append(error)

    with pool.client():
        thread = threading.Thread(target=wait)
        thread.start()
        while not pool._changed._waiters:
            pass
        pool.close()
        thread.join()
    assert 1 == len(errors)


@pytest.mark.parametrize(("size", "timeout"), [(0, 1), (1, -1), ("x", 1)])
def test_wrong_parameters(size, timeout):
    with pytest.raises(ParameterError):
        ConnectionPool(Client, size, timeout)
