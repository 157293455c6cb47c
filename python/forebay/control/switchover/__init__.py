"""A planned change of the primary: requests wait, what is under way ends, the candidate catches up and is promoted.

`change.Switchovers` is the entry. Who promotes is in `promotion.py`, what servers are asked in `line.py`.
"""
