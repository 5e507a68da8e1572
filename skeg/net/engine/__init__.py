"""What requests do to a database, and on which thread; knows no protocol and no socket."""
