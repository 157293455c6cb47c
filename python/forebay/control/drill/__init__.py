"""A drill: a failover under load, and what clients saw of it.

`run.Drill` is the entry. The load is in `load.py`, its clients in `client.py`, the table that tells the truth
afterwards in `ledger.py`, what is made of it in `report.py` and `plot.py`.
"""
