"""The bundled apps: each registers its event classes in its `events.py`."""
