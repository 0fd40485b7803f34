"""Second, slow and simple readings of the rules, and what a database says in their words."""
