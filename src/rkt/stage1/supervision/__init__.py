"""The life of a pod's apps: start, carry, restart, stop, tell why."""
