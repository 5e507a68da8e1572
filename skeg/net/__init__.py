"""The network: a server of RESP2, RESP3 and a binary protocol over a `skeg.Database`, and clients for it."""

from __future__ import annotations
