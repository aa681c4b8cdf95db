"""PGCacheWatch."""
