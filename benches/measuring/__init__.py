"""What poolbench.py is made of: processes and their cost, PostgreSQL, poolers, windows, reports."""
