"""What each page shows, as plain values: read with few, indexed queries, whatever the size of the tables."""
