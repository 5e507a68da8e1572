"""RESP2 and RESP3 without sockets: bytes of requests and replies, in both directions."""
