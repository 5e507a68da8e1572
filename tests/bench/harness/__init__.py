"""Measures skeg beside other libraries: same rows, same queries, same hour, one process for each library.

Downwards: `arithmetic`, `memory`, `environment` know nothing of each other; `data` prepares files; `engines` says how
each library is driven; `worker` is the process that drives one; `pool` talks to workers; `comparison` decides what to
measure in which order; `report`, `goals` turn results into tables, lines and plots. The scripts in the folder above
parse their options and print.
"""
