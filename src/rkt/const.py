"""Names that several parts agree on: directories, environment, annotations."""

from __future__ import annotations

DATA_DIR = "/var/lib/rkt"
SYSTEM_CONFIG_DIR = "/usr/lib/rkt"
LOCAL_CONFIG_DIR = "/etc/rkt"
LIB_DIR = "/usr/lib/rkt"
GROUP = "rkt"
METADATA_SOCKET = "/run/rkt/metadata-svc.sock"
METADATA_PORT = 18112
APPC_VERSION = "0.8.11"

LOCK_FD_ENV = "RKT_LOCK_FD"
SELINUX_CONTEXT_ENV = "RKT_SELINUX_CONTEXT"
SELINUX_MOUNT_CONTEXT_ENV = "RKT_SELINUX_MOUNT_CONTEXT"

STAGE1_PREFIX = "coreos.com/rkt/stage1/"
STAGE1_INTERFACE = STAGE1_PREFIX + "interface-version"
STAGE1_PRIVATE_MOUNTS = STAGE1_PREFIX + "private-mounts"
"""Ours: `true` lets stage0 make the pod's mounts in a mount namespace of its own."""
STAGE1_MUTABLE = STAGE1_PREFIX + "mutable"
STAGE1_OCI_NAME = "coreos.com/rkt/stage1-oci"

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
