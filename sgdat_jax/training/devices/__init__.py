"""Where arrays lie: one device or many, of one process or of several."""
