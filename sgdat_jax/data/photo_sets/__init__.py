"""Pictures in folders or parquet files: listed, decoded once, and kept as arrays."""
