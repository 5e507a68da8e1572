"""The binary protocol, without sockets: `frames` finds frames, `requests` and `replies` say what is in them."""
