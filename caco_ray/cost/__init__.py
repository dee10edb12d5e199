"""What a run will take, before it runs: rates (measured in a run, or published) x the rows that a config makes.

`rates.py` says what a rate is, `measured.py` takes them from a run, `published.yaml` holds the paper's, `plan.py` is the arithmetic.
"""
