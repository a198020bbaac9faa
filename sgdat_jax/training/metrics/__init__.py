"""What is measured of a run while it trains, and the result that it comes to."""
