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
    "cat-manifest": Entry("cat_manifest", "Inspect and print the pod manifest"),
    "enter": Entry("enter", "Enter the namespaces of an app within a rkt pod", root=True),
    "fetch": Entry("fetch", "Fetch image(s) and store them in the local store"),
    "gc": Entry("gc", "Garbage collect rkt pods no longer in use", root=True),
    "help": Entry("help", "Help about any command"),
    "image cat-manifest": Entry("image_cat_manifest", "Inspect and print the image manifest"),
    "image export": Entry("image_export", "Export a stored image to an ACI file"),
    "image list": Entry("image_list", "List images in the local store"),
    "image rm": Entry("image_rm", "Remove one or more images with the given IDs or image names "
                      "from the local store"),
    "list": Entry("list", "List pods"),
    "metadata-service": Entry("metadata_service", "Run metadata service"),
    "prepare": Entry("prepare", "Prepare to run image(s) in a pod in rkt", root=True),
    "rm": Entry(
        "rm", "Remove all files and resources associated with an exited pod", root=True
    ),
    "run": Entry("run", "Run image(s) in a pod in rkt", root=True),
    "run-prepared": Entry("run_prepared", "Run a prepared application pod in rkt", root=True),
    "status": Entry("status", "Check the status of a rkt pod"),
    "stop": Entry("stop", "Stop a pod"),
    "trust": Entry("trust", "Trust a key for image verification"),
    "version": Entry("version", "Print the version and exit"),
}  # fmt: skip
