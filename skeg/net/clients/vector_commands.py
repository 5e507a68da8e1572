"""Methods of clients for commands on vectors and their indexes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from skeg.net.clients import vector_calls
from skeg.net.clients.calls import Caller, Data
from skeg.net.clients.packing import Vector
from skeg.net.clients.types import Hit
from skeg.net.clients.vector_calls import HitArrays


class VectorCommands(Caller):
    """Vectors are arrays, iterables of numbers, or the bytes of little-endian float32 numbers."""

    def vindex_create(self, name: str, dim: int, *, backend: str = "flat", kind: str | None = None) -> None:
        """Create an index.

        Parameters
        ----------
        name : str
        dim : int
            Numbers of each vector.
        backend : {"flat", "disk"}
            "flat" looks at every vector, "disk" at a graph on the disk.
        kind : {"f32", "int8", "binary", "tq1", "tq2", "tq4"}, optional
            How vectors are stored; by default "f32" with "flat" and "int8" with "disk".

        Raises
        ------
        ServerError
            There is an index of that name.
        """
        self._run(vector_calls.vindex_create(name, dim, backend, kind))

    def vindex_drop(self, name: str) -> None:
        """Remove an index and its vectors.

        Parameters
        ----------
        name : str
        """
        self._run(vector_calls.on_index("SKEG.VINDEX.DROP", name))

    def vindex_consolidate(self, name: str) -> None:
        """Take the vectors that were set since the last time into the graph of an index.

        Parameters
        ----------
        name : str
        """
        self._run(vector_calls.on_index("SKEG.VINDEX.CONSOLIDATE", name))

    def vindex_list(self) -> list[dict[str, str]]:
        """Describe all indexes.

        Returns
        -------
        list of dict
            With the keys name, dim, kind, backend and n_vectors, by name.
        """
        return self._run(vector_calls.vindex_list())

    def vset(self, name: str, vec_id: int, vector: Vector, *, payload: Data | None = None) -> None:
        """Set the vector of an id.

        Parameters
        ----------
        name : str
            Of the index.
        vec_id : int
            From 0 to 2**64 - 2.
        vector : array_like (dim,) or bytes
        payload : bytes or str, optional
            What is stored with it, for filters and to be returned with hits.
        """
        self._run(vector_calls.vset(name, vec_id, vector, payload))

    def vmset(self, name: str, items: Iterable[tuple[int, Vector, Data | None]]) -> int:
        """Set the vectors of many ids.

        Parameters
        ----------
        name : str
            Of the index.
        items : iterable of (int, array_like or bytes, bytes or str or None)
            Ids, vectors and payloads; an empty payload is none.

        Returns
        -------
        int
            How many were set.
        """
        return self._run(vector_calls.vmset(name, items))

    def vget(self, name: str, vec_id: int) -> NDArray[np.float32] | None:
        """Vector of an id.

        Parameters
        ----------
        name : str
            Of the index.
        vec_id : int

        Returns
        -------
        ndarray (dim,) float32 or None
            None without such an id.
        """
        return self._run(vector_calls.vget(name, vec_id))

    def vdel(self, name: str, vec_id: int) -> int:
        """Delete the vector of an id.

        Parameters
        ----------
        name : str
            Of the index.
        vec_id : int

        Returns
        -------
        int
            1 if it was there, else 0.
        """
        return self._run(vector_calls.vdel(name, vec_id))

    @overload
    def vsearch(
        self,
        name: str,
        query: Vector,
        *,
        k: int = ...,
        l_search: int = ...,
        with_payload: bool = ...,
        filter: str | None = ...,
        arrays: Literal[False] = ...,
    ) -> list[Hit]: ...

    @overload
    def vsearch(
        self,
        name: str,
        query: Vector,
        *,
        k: int = ...,
        l_search: int = ...,
        with_payload: bool = ...,
        filter: str | None = ...,
        arrays: Literal[True],
    ) -> HitArrays: ...

    def vsearch(
        self,
        name: str,
        query: Vector,
        *,
        k: int = 10,
        l_search: int = 0,
        with_payload: bool = False,
        filter: str | None = None,  # noqa: A002 - the word for it, here and in other libraries
        arrays: bool = False,
    ) -> list[Hit] | HitArrays:
        """Find the vectors that are closest to a query.

        Parameters
        ----------
        name : str
            Of the index.
        query : array_like (dim,) or bytes
        k : int
            How many at most.
        l_search : int
            Vectors of a graph that are kept in view: more take longer and miss less. 0: as the index says.
        with_payload : bool
            Whether hits come with their payloads.
        filter : str, optional
            What payloads have to be like, such as ``lang = en AND year >= 2020``.
        arrays : bool
            Return arrays, without payloads, instead of hits.

        Returns
        -------
        list of Hit, or (ndarray uint64, ndarray float32)
            Best first; or their ids and scores.

        Raises
        ------
        ServerError
            There is no such index, its vectors have another dimension, or the filter can't be read.
        """
        call = vector_calls.vsearch(
            name, query, k=k, l_search=l_search, with_payload=with_payload, filter_=filter, arrays=arrays
        )
        return self._run(call)  # type: ignore[no-any-return]

    @overload
    def vsearch_many(
        self,
        name: str,
        queries: Any,
        *,
        k: int = ...,
        l_search: int = ...,
        with_payload: bool = ...,
        filter: str | None = ...,
        arrays: Literal[False] = ...,
    ) -> list[list[Hit]]: ...

    @overload
    def vsearch_many(
        self,
        name: str,
        queries: Any,
        *,
        k: int = ...,
        l_search: int = ...,
        with_payload: bool = ...,
        filter: str | None = ...,
        arrays: Literal[True],
    ) -> list[HitArrays]: ...

    def vsearch_many(
        self,
        name: str,
        queries: Any,
        *,
        k: int = 10,
        l_search: int = 0,
        with_payload: bool = False,
        filter: str | None = None,  # noqa: A002 - the word for it, here and in other libraries
        arrays: bool = False,
    ) -> list[list[Hit]] | list[HitArrays]:
        """Find the vectors that are closest to each of many queries, which one command carries.

        Parameters
        ----------
        name : str
            Of the index.
        queries : array_like (n, dim)
        k : int
            How many hits at most, for each query.
        l_search : int
            See `vsearch`.
        with_payload : bool
            See `vsearch`.
        filter : str, optional
            See `vsearch`.
        arrays : bool
            See `vsearch`.

        Returns
        -------
        list
            What `vsearch` returns, for each query.
        """
        call = vector_calls.vsearch_many(
            name, queries, k=k, l_search=l_search, with_payload=with_payload, filter_=filter, arrays=arrays
        )
        return self._run(call)  # type: ignore[no-any-return]
