"""The rules, pure: states and events in, a plan out."""
