"""The training program: from the description of a run to its folder of results."""
