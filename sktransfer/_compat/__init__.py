"""Names of other libraries that are private or differ between versions, a file for each library.

Each stands with the last version in which it was seen. No other file uses such names.
"""
