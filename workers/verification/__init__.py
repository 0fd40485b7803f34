"""The log folded again, and held against what is stored."""
