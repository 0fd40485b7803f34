"""Whether all that was stored is still there after a failover or a restore."""
