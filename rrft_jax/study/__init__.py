"""A study: several paradigms of training on the same samples, of several numbers and seeds.

A cell of the study is an ordinary run with a folder of its own, OUT/TASK/PARADIGM-SAMPLES-SEED.
`cells.py` says which cells there are, and `cost.py` what each one costs. `running.py` makes them,
one process each. `outcome.py` reads what they left. `tables.py`, `figures.py` and `page.py` show
it.
"""
