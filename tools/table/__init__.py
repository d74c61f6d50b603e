"""Tables of many runs: their file, running them, their numbers and their figure (`tools/run_table.py`)."""
