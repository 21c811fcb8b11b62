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
SELINUX_ENFORCE = "/sys/fs/selinux/enforce"
"""There if SELinux is enabled, permissive or not."""
SELINUX_LEVEL = "selinux-level"
"""Ours: in a pod's directory, the level that no other pod has."""

STAGE1_PREFIX = "coreos.com/rkt/stage1/"
STAGE1_INTERFACE = STAGE1_PREFIX + "interface-version"
STAGE1_INTERFACE_MAX = 6
"""The newest version of the contract that stage0 speaks."""
STAGE1_PROGRAMS = (
    "run", "enter", "gc", "stop", "attach", "app/add", "app/rm", "app/start", "app/stop",
)  # fmt: skip
"""The annotations below the prefix whose value is the path of a program."""
STAGE1_PRIVATE_MOUNTS = STAGE1_PREFIX + "private-mounts"
"""Ours: `true` lets stage0 make the pod's mounts in a mount namespace of its own."""
STAGE1_HOST_MOUNTS = STAGE1_PREFIX + "host-mounts"
"""Ours: `true` says that the run program wants the mount namespace that stage0 left."""
HOST_MOUNTS_ENV = "RKT_HOST_MOUNTS_FD"
STAGE1_MUTABLE = STAGE1_PREFIX + "mutable"
STAGE2_DIR = "stage1/rootfs/opt/stage2"
"""Below a pod's directory: the roots of its apps, `<app>/rootfs`.

Members of the group read what a pod is, but must not come upon set-uid programs: mode 0700.
"""
STAGE2_PREFIX = "coreos.com/rkt/stage2/"
"""Annotations of an app: `stdin`, `stdout`, `stderr` say where its streams go."""
STAGE1_OCI_NAME = "coreos.com/rkt/stage1-oci"
STAGE1_FLY_NAME = "coreos.com/rkt/stage1-fly"
STAGE1_NSPAWN_NAME = "coreos.com/rkt/stage1-nspawn"

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

READY_FD_ENV = "RKT_READY_FD"
"""Ours: a pipe on which a detached stage1 says, with one byte, that the apps run."""
STAGE1_READY = STAGE1_PREFIX + "ready-fd"
"""Ours: `true` says that the run program knows that pipe."""

# Annotations of a pod manifest: what the pod's own supervisor carries out.
POD_RESTART = "coreos.com/rkt/pod/restart"
"""`no`, `on-failure`, `on-failure:N` or `always`."""
POD_STOP_TIMEOUT = "coreos.com/rkt/pod/stop-timeout"
"""Seconds from the signal that ends the pod to SIGKILL."""
POD_LOG_SIZE = "coreos.com/rkt/pod/log-max-size"
"""Bytes of log kept of each app; 0 for none."""
# Annotations of an app: its health check; the times are in seconds.
HEALTH_PREFIX = "coreos.com/rkt/stage2/health-"
HEALTH_CMD = HEALTH_PREFIX + "cmd"
"""The command as a JSON array."""
HEALTH_INTERVAL = HEALTH_PREFIX + "interval"
HEALTH_TIMEOUT = HEALTH_PREFIX + "timeout"
HEALTH_RETRIES = HEALTH_PREFIX + "retries"
HEALTH_START = HEALTH_PREFIX + "start-period"

RELEASED = "released"
"""Ours: a file by which a stage1 says that its gc program would find nothing to release."""

NETWORKS = "net/state.json"
"""Ours: a stage1's record of its networks, there as long as they hold anything on the host."""

LOG_DIR = "logs"
"""Below a pod's directory: `logs/<app>/<number>`, described in docs/devel/on-disk-format.md."""
LOG_MAGIC = b"rkt-log1"
POD_NAMES = "podnames"
"""Below the data directory: a link for each name of a pod."""
BOOT_ID = "boot-id"
"""In a pod's directory: the host's boot ID when the pod was started."""
NOT_STARTED = "not-started"
"""In a pod's directory: why its stage1 could not be executed."""
SYSTEMD_NOTIFY = "appc.io/executor/supports-systemd-notify"
"""An image annotation: `true` says that the app announces its readiness, as sd_notify(3) has it."""
JOURNALS = ("/var/log/journal", "/run/log/journal")
"""Where journals are: lasting if the first exists, as with journald."""
