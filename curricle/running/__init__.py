"""From a plan to its rows: inputs prepared, runs handed to workers, trained, scored and kept, and their rows gathered.

`runner` walks the plan; `work` is one run; `workers` and `cluster` are who trains it, here or on a cluster's nodes.
"""
