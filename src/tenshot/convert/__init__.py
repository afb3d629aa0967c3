"""Files into other files."""
