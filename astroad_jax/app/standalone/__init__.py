"""What an export carries with it: files that import nothing of this package, copied as they stand."""
