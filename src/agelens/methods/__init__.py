"""The methods, a paper a file."""
