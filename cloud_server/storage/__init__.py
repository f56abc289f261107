"""What survives: the database's tables and the content-addressed files."""
