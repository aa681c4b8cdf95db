"""Programs that the bench runs as processes of their own: small servers, and a publisher for PostgreSQL."""
