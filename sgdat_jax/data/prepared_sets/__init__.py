"""Data sets that tensorflow-datasets prepares, its own and Tiny ImageNet."""
