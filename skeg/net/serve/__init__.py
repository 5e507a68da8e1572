"""The server: sockets, ticks, limits, processes; what is said on the sockets is the business of sessions."""
