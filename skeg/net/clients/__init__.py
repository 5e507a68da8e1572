"""Clients of the server: blocking ones of both protocols, one for asyncio, and a pool."""
