"""Names of other libraries that differ between versions or are private, a file for each library."""
