"""The diagnosis of whether a case is in scope of legal aid."""
