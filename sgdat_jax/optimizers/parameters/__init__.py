"""Which parameters of a network are binary, and who trains which."""
