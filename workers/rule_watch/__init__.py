"""An eye on the rules of apps: which one is at work, how long it takes, and an end to one that never returns."""
