"""What the metadata service knows: pods by token, on disk so that a restart forgets nothing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import time
import uuid as uuids

from rkt.errors import KernelError, RktError, SchemaError
from rkt.linux import atomic
from rkt.schema import codec
from rkt.schema.image import Annotation, ImageManifest, decode_image_manifest
from rkt.schema.pod import PodManifest, decode_pod_manifest
from rkt.schema.struct import Struct, replace
from rkt.schema.types import parse_uuid

MAX_PODS = 10_000
MAX_APPS = 1_000
_KEY_SIZE = 64
_TOKEN = frozenset("0123456789abcdef")


class Saved(Struct, strict=True):
    """A registered pod as it is kept on disk."""

    token: str
    pid: int
    started: int
    manifest: str
    apps: dict[str, str]
    ended: float = 0.0


class Pod:
    """A registered pod with the bodies of all answers, made once."""

    __slots__ = ("annotations", "apps", "manifest", "manifest_body", "saved", "uuid", "values")

    def __init__(self, uuid: str, saved: Saved) -> None:
        self.uuid = uuid
        self.saved = saved
        self.manifest: PodManifest = decode_pod_manifest(saved.manifest.encode())
        self.manifest_body = saved.manifest.encode()
        self.annotations = codec.encode(self.manifest.annotations)
        self.values = {item.name: item.value for item in self.manifest.annotations}
        self.apps: dict[str, App] = {}
        for name, text in saved.apps.items():
            self.add_app(name, text)

    def add_app(self, name: str, text: str) -> None:
        """Add an app with its image manifest.  Raises SchemaError."""
        app = self.manifest.app(name)
        if app is None:
            raise SchemaError(f'the pod manifest has no app "{name}"')
        image = decode_image_manifest(text.encode())
        self.apps[name] = App(text.encode(), app.image.id, image, app.annotations)


class App:
    """An app of a registered pod."""

    __slots__ = ("annotations", "id", "manifest_body", "values")

    def __init__(
        self, body: bytes, image_id: str, image: ImageManifest, own: tuple[Annotation, ...]
    ) -> None:
        self.manifest_body = body
        self.id = image_id.encode()
        # The image's, in its order, with the pod's values; then those that only the pod has.
        merged = {item.name: item.value for item in image.annotations}
        merged.update((item.name, item.value) for item in own)
        self.values = merged
        self.annotations = codec.encode(tuple(Annotation(n, v) for n, v in merged.items()))


class Registry:
    """Registered pods; every change is on disk before it is answered."""

    def __init__(self, directory: str, *, ttl: float) -> None:
        self._dir = directory
        self._ttl = ttl
        self._by_token: dict[str, Pod] = {}
        self._by_uuid: dict[str, Pod] = {}
        try:
            os.makedirs(f"{directory}/pods", 0o700, exist_ok=True)
        except OSError as err:
            raise KernelError("cannot use the state directory", err, directory) from err
        self._key = self._load_key()
        self.damaged: list[str] = []
        self._load()

    def __len__(self) -> int:
        return len(self._by_uuid)

    def _load_key(self) -> bytes:
        path = f"{self._dir}/key"
        try:
            with open(path, "rb") as file:
                key = file.read(_KEY_SIZE + 1)
            if len(key) == _KEY_SIZE:
                return key
        except FileNotFoundError:
            pass
        key = os.urandom(_KEY_SIZE)
        atomic.write_file(path, key, mode=0o600)
        return key

    def _load(self) -> None:
        for name in sorted(os.listdir(f"{self._dir}/pods")):
            path = f"{self._dir}/pods/{name}"
            if not name.endswith(".json"):
                os.unlink(path)  # of an interrupted write
                continue
            try:
                uuid = parse_uuid(name[:-5])
                with open(path, "rb") as file:
                    saved = codec.decode(file.read(), Saved, name)
                self._insert(Pod(uuid, saved))
            except (RktError, ValueError) as err:
                self.damaged.append(f'"{path}": {err}')
                os.unlink(path)

    def _insert(self, pod: Pod) -> None:
        self._by_token[pod.saved.token] = pod
        self._by_uuid[pod.uuid] = pod

    def _save(self, pod: Pod) -> None:
        data = codec.encode(pod.saved)
        path = f"{self._dir}/pods/{pod.uuid}.json"
        atomic.write_file(path, data, mode=0o600, durable=False)

    # Registration

    def register(self, uuid: str, token: str, manifest: bytes, owner: tuple[int, int]) -> Pod:
        """Register a pod that the process `owner` (PID, start time) runs.  Raises SchemaError."""
        if len(self._by_uuid) >= MAX_PODS and uuid not in self._by_uuid:
            raise SchemaError(f"more than {MAX_PODS} pods are registered")
        if not is_token(token):
            raise SchemaError("token missing")
        other = self._by_token.get(token)
        if other is not None and other.uuid != uuid:
            raise SchemaError("token is in use")
        pod = Pod(uuid, Saved(token, owner[0], owner[1], manifest.decode(), {}))
        self.forget(uuid)
        self._save(pod)
        self._insert(pod)
        return pod

    def update(self, uuid: str, manifest: bytes) -> bool:
        """Take the new manifest of a pod whose apps change; False if the pod is unknown.

        Apps that it no longer has are forgotten.  Raises SchemaError.
        """
        old = self._by_uuid.get(uuid)
        if old is None:
            return False
        saved = old.saved
        bare = Pod(uuid, Saved(saved.token, saved.pid, saved.started, manifest.decode(), {}))
        for name, text in saved.apps.items():
            if bare.manifest.app(name) is not None:
                bare.add_app(name, text)
                bare.saved.apps[name] = text
        self._save(bare)
        self._insert(bare)
        return True

    def register_app(self, uuid: str, name: str, manifest: bytes) -> bool:
        """Add an app's image manifest; False if the pod is unknown.  Raises SchemaError."""
        pod = self._by_uuid.get(uuid)
        if pod is None:
            return False
        if len(pod.apps) >= MAX_APPS:
            raise SchemaError(f"more than {MAX_APPS} apps")
        text = manifest.decode()
        pod.add_app(name, text)
        pod.saved.apps[name] = text
        self._save(pod)
        return True

    def forget(self, uuid: str) -> bool:
        """Remove a pod; False if it is unknown."""
        pod = self._by_uuid.pop(uuid, None)
        if pod is None:
            return False
        del self._by_token[pod.saved.token]
        try:
            os.unlink(f"{self._dir}/pods/{uuid}.json")
        except FileNotFoundError:
            pass
        return True

    # Questions

    def pod(self, token: str) -> Pod | None:
        """Give the pod of a token."""
        return self._by_token.get(token)

    def pods(self) -> list[Pod]:
        """Give all pods."""
        return list(self._by_uuid.values())

    def sign(self, uuid: str, content: bytes) -> bytes:
        """Give the signature of a content by a pod."""
        return base64.b64encode(self._digest(uuid, content))

    def verify(self, uuid: str, content: bytes, signature: bytes) -> bool:
        """Say whether a signature is that pod's of this content."""
        return hmac.compare_digest(self._digest(uuid, content), signature)

    def _digest(self, uuid: str, content: bytes) -> bytes:
        return hmac.new(self._key, uuids.UUID(uuid).bytes + content, hashlib.sha512).digest()

    # The end of pods

    def ended(self, pod: Pod) -> None:
        """Note that a pod's process has ended: it stays known for the time to live."""
        if not pod.saved.ended:
            pod.saved = replace(pod.saved, ended=time.time())
            self._save(pod)

    def expire(self) -> None:
        """Forget the pods whose time is over."""
        now = time.time()
        for pod in self.pods():
            if pod.saved.ended and now - pod.saved.ended >= self._ttl:
                self.forget(pod.uuid)


def is_token(text: str) -> bool:
    """Say whether a text has the form of a token: 128 bits or more, as hex digits."""
    return 32 <= len(text) <= 128 and set(text) <= _TOKEN
