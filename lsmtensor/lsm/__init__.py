"""The log-structured merge tree: what is newest, what a crash may leave, who still reads a file."""
