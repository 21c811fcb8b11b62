"""The commands: data, so that help and completion need no command's module."""

from __future__ import annotations


class Entry:
    """A command's module below `rkt.cli.cmd`, its one-line summary and whether it needs root."""

    __slots__ = ("module", "root", "summary")

    def __init__(self, module: str, summary: str, *, root: bool = False) -> None:
        self.module = module
        self.summary = summary
        self.root = root


COMMANDS: dict[str, Entry] = {
    "api-service": Entry("api_service", "Run API service (experimental)"),
    "app add": Entry("app_add", "Add an app to a pod", root=True),
    "app exec": Entry("app_exec", "Execute commands in the given app's namespace", root=True),
    "app list": Entry("app_list", "List apps in a pod"),
    "app rm": Entry("app_rm", "Remove an app from a pod", root=True),
    "app sandbox": Entry("app_sandbox", "Create an empty pod application sandbox", root=True),
    "app start": Entry("app_start", "Start an app in a pod", root=True),
    "app status": Entry("app_status", "Show status of an app"),
    "app stop": Entry("app_stop", "Stop an app in a pod", root=True),
    "attach": Entry("attach", "Attach to an app running within a rkt pod", root=True),
    "cat-manifest": Entry("cat_manifest", "Inspect and print the pod manifest"),
    "completion": Entry("completion", "Output shell completion code for the specified shell"),
    "config": Entry("config", "Print configuration for each stage in JSON format"),
    "enter": Entry("enter", "Enter the namespaces of an app within a rkt pod", root=True),
    "events": Entry("events", "Tell what happened to pods, apps and images"),
    "export": Entry("export", "Export an app from an exited pod to an ACI file", root=True),
    "fetch": Entry("fetch", "Fetch image(s) and store them in the local store"),
    "gc": Entry("gc", "Garbage collect rkt pods no longer in use", root=True),
    "help": Entry("help", "Help about any command"),
    "image build": Entry("image_build", "Make an ACI file out of a directory with a manifest and a "
                         "rootfs"),
    "image cat-manifest": Entry("image_cat_manifest", "Inspect and print the image manifest"),
    "image export": Entry("image_export", "Export a stored image to an ACI file"),
    "image extract": Entry("image_extract", "Extract a stored image to a directory"),
    "image gc": Entry("image_gc", "Garbage collect images and trees no longer in use", root=True),
    "image inspect": Entry("image_inspect", "Show what the local store knows of images"),
    "image list": Entry("image_list", "List images in the local store"),
    "image render": Entry("image_render", "Render a stored image to a directory with all its "
                          "dependencies", root=True),
    "image rm": Entry("image_rm", "Remove one or more images with the given IDs or image names "
                      "from the local store"),
    "image verify": Entry("image_verify", "Verify images in the local store"),
    "list": Entry("list", "List pods"),
    "logs": Entry("logs", "Show the output that a pod's apps wrote", root=True),
    "metadata-service": Entry("metadata_service", "Run metadata service"),
    "prepare": Entry("prepare", "Prepare to run image(s) in a pod in rkt", root=True),
    "rm": Entry(
        "rm", "Remove all files and resources associated with an exited pod", root=True
    ),
    "run": Entry("run", "Run image(s) in a pod in rkt", root=True),
    "run-prepared": Entry("run_prepared", "Run a prepared application pod in rkt", root=True),
    "stats": Entry("stats", "Show what running pods use: CPU, memory, devices, network"),
    "status": Entry("status", "Check the status of a rkt pod"),
    "stop": Entry("stop", "Stop a pod"),
    "trust": Entry("trust", "Trust a key for image verification"),
    "version": Entry("version", "Print the version and exit"),
}  # fmt: skip
ALIASES = {"image fetch": "fetch"}
"""Names that work and that no help shows."""
