"""What stage1 uses of the host: control groups, systemd, the OCI runtime, networks."""
