"""docker:// against a registry that does everything wrong, over HTTPS on loopback."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from rkt.config.auth import Credentials
from rkt.config.insecure import InsecureOptions
from rkt.errors import AuthError, FetchError, RktError, SchemaError, VerifyError, describe
from rkt.fetch import layers
from rkt.fetch.docker import DockerFetcher, stored
from rkt.fetch.finder import Finder
from rkt.fetch.http import Client
from rkt.fetch.options import NEVER, NEW, Options
from rkt.keystore.keys import Keystore
from rkt.schema.docker import parse_reference
from rkt.store.images import Store
from rkt_testkit.oci import Image, Layer, digest, encode
from rkt_testkit.origin import Origin
from rkt_testkit.probes import enforce

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator

    from rkt.store.records import ImageRecord
    from rkt_testkit.origin import Resource

pytestmark = pytest.mark.loopback

HOST = "registry.example.com"
BASE = f"{HOST}/v2/app"
ADDRESS = f"docker://{HOST}/app:v1"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture(scope="module")
def server() -> Iterator[Origin]:
    enforce(("openssl",))
    with Origin() as running:
        yield running


@pytest.fixture
def origin(server: Origin, monkeypatch: pytest.MonkeyPatch) -> Origin:
    server.resources.clear()
    server.requests.clear()
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[Store]:
    made = Store(str(tmp_path / "data"))
    yield made
    made.close()


def image(**values: Any) -> Image:
    base = Layer().directory("./").directory("bin").file("bin/sh", os.urandom(3000), mode=0o755)
    return Image([base, Layer().directory("etc").file("etc/app", "one\n")], **values)


def publish(origin: Origin, made: Image, *, base: str = BASE, tag: str = "v1") -> Resource:
    """Put an image into the registry; gives the manifest."""
    for name, data in made.blobs.items():
        origin.put(f"{base}/blobs/{name}", data)
        origin.put(f"{base}/manifests/{name}", data, kind=made.descriptor["mediaType"])
    manifest = made.blobs[made.descriptor["digest"]]
    return origin.put(f"{base}/manifests/{tag}", manifest, kind=made.descriptor["mediaType"])


@pytest.fixture
def fetch(store: Store, tmp_path: pathlib.Path) -> Callable[..., ImageRecord]:
    def get(address: str = ADDRESS, *, env: dict[str, str] | None = None, **insecure: bool) -> Any:
        credentials = Credentials([str(tmp_path / "config")], env or {})
        options = Options(insecure=InsecureOptions(image=True, **insecure),
                          credentials=lambda: credentials)  # fmt: skip
        client = Client(options.insecure, stall=1)
        reference = parse_reference(address.removeprefix("docker://"))
        return DockerFetcher(store, options, client).fetch(address, reference)

    return get


def login(tmp_path: pathlib.Path, *registries: str, user: str = "me", password: str = "pw") -> str:
    """Configure credentials; gives the header that they make."""
    folder = tmp_path / "config" / "auth.d"
    folder.mkdir(parents=True)
    document = {
        "rktKind": "dockerAuth", "rktVersion": "v1", "registries": registries,
        "credentials": {"user": user, "password": password},
    }  # fmt: skip
    path = folder / "docker.json"
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def refusal(fetch: Callable[..., ImageRecord], kind: type[RktError], **values: Any) -> str:
    """Give the text of the failure of a fetch."""
    with pytest.raises(kind) as caught:
        fetch(**values)
    return describe(caught.value)


# --- what works --------------------------------------------------------------------------------


@pytest.mark.parametrize(("compression", "docker"), [
    ("gzip", True), ("gzip", False), ("zstd", False), ("none", False), ("none", True),
])  # fmt: skip
def test_fetch(
    origin: Origin, store: Store, fetch: Callable[..., ImageRecord],
    capsys: pytest.CaptureFixture[str], compression: str, docker: bool,
) -> None:  # fmt: skip
    made = image(compression=compression, docker=docker)
    publish(origin, made)
    record = fetch()
    assert record.name == f"{HOST}/app"
    assert dict(record.labels) == {"version": "v1", "os": "linux", "arch": "amd64"}
    manifest = store.manifest(record.key)
    assert manifest.annotation("appc.io/docker/manifesthash") == made.descriptor["digest"]
    assert manifest.annotation("appc.io/docker/originalname") == f"{HOST}/app:v1"
    names = [one.image_name for one in manifest.dependencies]
    assert names == ["oci-layer/" + one["digest"].replace(":", "-") for one in made.layers]
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        f"rkt: fetching image from {ADDRESS}",
        "rkt: warning: signature verification has been disabled",
    ]
    assert sorted(lines[2:]) == sorted(
        f"Downloading layer: {one['digest'][7:]}" for one in made.layers
    )


def test_the_size_of_an_image_is_that_of_its_layers(
    origin: Origin, store: Store, fetch: Callable[..., ImageRecord]
) -> None:
    lower, upper = os.urandom(300_000), os.urandom(20_000)
    made = Image([Layer().file("a", lower), Layer().file("b", upper).whiteout("a")])
    publish(origin, made)
    record = fetch()
    assert 320_000 < record.tree_size < 330_000
    assert store.get(record.key) == record
    assert fetch() == record


def test_one_manifest_gives_one_id(
    origin: Origin, fetch: Callable[..., ImageRecord], tmp_path: pathlib.Path, store: Store
) -> None:
    publish(origin, image())
    first = fetch()
    other = Store(str(tmp_path / "elsewhere"))
    second = DockerFetcher(other, Options(), Client(InsecureOptions())).fetch(
        "docker://x", parse_reference(f"{HOST}/app:v1")
    )
    assert first.digest == second.digest
    assert {one.digest for one in store.list()} == {one.digest for one in other.list()}
    other.close()


def test_layers_are_downloaded_once(
    origin: Origin, store: Store, fetch: Callable[..., ImageRecord]
) -> None:
    first = image()
    publish(origin, first)
    fetch()
    again = Image([Layer.of(first.tars[0]), Layer().file("new", "x")])
    publish(origin, again, base=f"{HOST}/v2/other")
    origin.requests.clear()
    fetch(f"docker://{HOST}/other:v1")
    asked = [request.path for request in origin.requests]
    shared = first.layers[0]["digest"]
    assert [path for path in asked if shared in path] == []
    assert len(store.list()) == 5  # three layers, two images
    origin.requests.clear()
    fetch()
    assert len(origin.requests) == 2  # manifest and configuration


def test_index_and_digest(origin: Origin, fetch: Callable[..., ImageRecord], store: Store) -> None:
    made, other = image(), image(config={})
    publish(origin, made)
    publish(origin, other)
    index = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        {**other.descriptor, "platform": {"os": "linux", "architecture": "s390x"}},
        {**made.descriptor, "platform": {"os": "linux", "architecture": "amd64"}},
    ]})  # fmt: skip
    origin.put(f"{BASE}/manifests/v1", index, kind=OCI_INDEX)
    origin.put(f"{BASE}/manifests/{digest(index)}", index, kind=OCI_INDEX)
    expected = made.descriptor["digest"]
    record = fetch()
    assert store.manifest(record.key).annotation("appc.io/docker/manifesthash") == expected
    record = fetch(f"docker://{HOST}/app@{digest(index)}")
    assert store.manifest(record.key).annotation("appc.io/docker/manifesthash") == expected
    assert record.label("version") == digest(index).replace(":", "_")


def test_policy_and_the_switch(
    origin: Origin, store: Store, tmp_path: pathlib.Path, fetch: Callable[..., ImageRecord]
) -> None:
    keystore = Keystore(system=str(tmp_path), local=str(tmp_path))
    careful = Finder(store, keystore, Options(NEW))
    with pytest.raises(FetchError) as caught:
        careful.find(ADDRESS)
    text = (
        "signature verification for docker images is not supported (try --insecure-options=image)"
    )
    assert caught.value.message == text
    with pytest.raises(FetchError) as caught:
        Finder(store, keystore, Options(NEVER)).find(ADDRESS)
    assert caught.value.message.startswith(
        f'unable to fetch docker image from URL "{ADDRESS}": either image was not found in '
    )
    publish(origin, image())
    record = fetch()
    origin.requests.clear()
    assert careful.find(ADDRESS).key == record.key
    assert Finder(store, keystore, Options(NEVER)).find(ADDRESS).key == record.key
    assert origin.requests == []
    with pytest.raises(VerifyError) as refused:
        careful.require_trusted(record)
    assert refused.value.message == text


def test_a_lost_layer_is_fetched_again(
    origin: Origin, store: Store, fetch: Callable[..., ImageRecord]
) -> None:
    publish(origin, image())
    record = fetch()
    layer = store.resolve(store.manifest(record.key).dependencies[0].image_id or "")
    store.remove(layer)
    assert stored(store, f"docker://{HOST}/app:v1") is None
    assert fetch().key == record.key
    assert store.get(layer).name.startswith("oci-layer/")


def test_broken_download_goes_on(origin: Origin, fetch: Callable[..., ImageRecord]) -> None:
    made = Image([Layer().file("big", os.urandom(2_000_000))], compression="none")
    publish(origin, made)
    blob = origin.resources[f"{BASE}/blobs/{made.layers[0]['digest']}"]
    blob.ranges, blob.etag, blob.cut, blob.faults = True, '"x"', 1_000_000, 1
    fetch()
    asked = origin.asked(f"{BASE}/blobs/{made.layers[0]['digest']}")
    assert [request.headers.get("Range") for request in asked] == [None, "bytes=1000000-"]


# --- authentication ----------------------------------------------------------------------------


def protect(origin: Origin, authorization: str, challenge: str) -> None:
    for url, resource in origin.resources.items():
        if url.startswith(BASE):
            resource.authorization, resource.challenge = authorization, challenge


def test_basic(origin: Origin, fetch: Callable[..., ImageRecord], tmp_path: pathlib.Path) -> None:
    publish(origin, image())
    protect(origin, login(tmp_path, HOST), 'Basic realm="x"')
    fetch()


def test_token(origin: Origin, fetch: Callable[..., ImageRecord], tmp_path: pathlib.Path) -> None:
    publish(origin, image())
    challenge = (
        'Bearer realm="https://auth.example.com/token",service="reg",scope="repository:app:pull"'
    )
    protect(origin, "Bearer t0ken", challenge)
    origin.put("auth.example.com/token", '{"token":"t0ken","expires_in":60}')
    header = login(tmp_path, HOST)
    fetch()
    asked = origin.asked("auth.example.com/token")
    assert len(asked) == 1
    assert asked[0].path == "/token?account=me&service=reg&scope=repository%3Aapp%3Apull"
    assert asked[0].headers["Authorization"] == header


def test_token_without_credentials_and_with_docker_s_own(
    origin: Origin, fetch: Callable[..., ImageRecord], tmp_path: pathlib.Path
) -> None:
    publish(origin, image())
    protect(origin, "Bearer t", 'Bearer realm="https://auth.example.com/token"')
    origin.put("auth.example.com/token", '{"access_token":"t"}')
    fetch()
    assert "Authorization" not in origin.asked("auth.example.com/token")[0].headers
    home = tmp_path / ".docker"
    home.mkdir()
    secret = base64.b64encode(b"you:word").decode()
    (home / "config.json").write_text(json.dumps({"auths": {HOST: {"auth": secret}}}))
    (home / "config.json").chmod(0o600)
    fetch(env={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)})
    sent = origin.asked("auth.example.com/token")[1].headers["Authorization"]
    assert sent == f"Basic {secret}"


def test_identity_token(
    origin: Origin, fetch: Callable[..., ImageRecord], tmp_path: pathlib.Path
) -> None:
    publish(origin, image())
    protect(origin, "Bearer t", 'Bearer realm="https://auth.example.com/token",service="reg"')
    answer = origin.put("auth.example.com/token", '{"access_token":"t"}')
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {HOST: {"identitytoken": "se&cret"}}}))
    path.chmod(0o600)
    env = {"REGISTRY_AUTH_FILE": str(path)}
    fetch(env=env)
    (asked,) = origin.asked("auth.example.com/token")
    assert (asked.method, asked.path) == ("POST", "/token")
    assert "Authorization" not in asked.headers
    assert asked.body == (
        "grant_type=refresh_token&service=reg&scope=repository%3Aapp%3Apull&client_id=rkt&"
        "refresh_token=se%26cret"
    )
    answer.redirect = "https://evil.example.com/token"
    text = refusal(fetch, FetchError, env=env)
    assert text == '"https://auth.example.com/token": redirects what must go nowhere else'
    assert origin.asked("evil.example.com/token") == []
    # where there is no token server it is of no use
    protect(origin, "never", "Basic")
    with pytest.raises(AuthError) as caught:
        fetch(env=env)
    assert caught.value.hint == f'the credentials for "{HOST}" are refused'


def test_a_helper_is_only_asked_when_the_registry_asks(
    origin: Origin, fetch: Callable[..., ImageRecord], tmp_path: pathlib.Path
) -> None:
    publish(origin, image())
    program = tmp_path / "docker-credential-mine"
    program.write_text(f"""#!/bin/sh
echo asked >> {tmp_path}/log
echo '{{"Username":"me","Secret":"pw"}}'
""")
    program.chmod(0o755)
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"credHelpers": {HOST: "mine"}}))
    path.chmod(0o600)
    env = {"REGISTRY_AUTH_FILE": str(path), "PATH": f"{tmp_path}:/bin"}
    fetch(env=env)
    assert not (tmp_path / "log").exists()
    secret = base64.b64encode(b"me:pw").decode()
    protect(origin, f"Basic {secret}", "Basic")
    fetch(env=env)
    assert (tmp_path / "log").read_text() == "asked\n"


def test_refused(origin: Origin, fetch: Callable[..., ImageRecord], tmp_path: pathlib.Path) -> None:
    publish(origin, image())
    protect(origin, "never", "Basic")
    url = f"https://{BASE}/manifests/v1"
    with pytest.raises(AuthError) as caught:
        fetch()
    assert caught.value.message == f'"{url}": bad HTTP status code: 401'
    assert caught.value.hint == (
        f'credentials for "{HOST}" go into a file of kind "dockerAuth" in auth.d'
    )
    login(tmp_path, HOST)
    with pytest.raises(AuthError) as caught:
        fetch()
    assert caught.value.hint == f'the credentials for "{HOST}" are refused'
    assert len([r for r in origin.requests if r.headers.get("Authorization")]) == 1


@pytest.mark.parametrize(("body", "status", "expected"), [
    ("{}", 200, "gives no usable token"),
    ('{"token":"a\\r\\nX: y"}', 200, "gives no usable token"),
    ("no", 200, "bad answer: token: error at line 1, column "),
    ("", 403, "bad HTTP status code: 403"),
    ("", 500, "bad HTTP status code: 500"),
])  # fmt: skip
def test_bad_tokens(
    origin: Origin, fetch: Callable[..., ImageRecord], body: str, status: int, expected: str
) -> None:
    publish(origin, image())
    protect(origin, "Bearer t", 'Bearer realm="https://auth.example.com/token"')
    origin.put("auth.example.com/token", body).status = status
    text = refusal(fetch, FetchError)
    assert text.startswith(f'"https://auth.example.com/token": {expected}')


def test_credentials_do_not_leave_for_plain_http(
    origin: Origin, fetch: Callable[..., ImageRecord], tmp_path: pathlib.Path
) -> None:
    publish(origin, image())
    realm = f"http://localhost:{origin.plain_port}/token"
    protect(origin, "Bearer t", f'Bearer realm="{realm}"')
    login(tmp_path, HOST)
    text = refusal(fetch, AuthError, http=True)
    assert text == f'"{HOST}": its token server "{realm}" is not on https'
    # a registry without TLS: no credentials at all
    plain = f"localhost:{origin.plain_port}"
    publish(origin, image(), base="localhost/v2/app")
    for url, resource in origin.resources.items():
        if url.startswith("localhost/v2"):
            resource.authorization = "never"
    (tmp_path / "config" / "auth.d" / "docker.json").unlink()
    (tmp_path / "config" / "auth.d").rmdir()
    (tmp_path / "config").rmdir()
    login(tmp_path, plain)
    origin.requests.clear()
    with pytest.raises(AuthError) as caught:
        fetch(f"docker://{plain}/app:v1", http=True)
    assert caught.value.message.endswith("bad HTTP status code: 401")
    assert caught.value.hint == f'the credentials for "{plain}" are only sent over https'
    assert all("Authorization" not in request.headers for request in origin.requests)


def test_credentials_do_not_follow_a_redirect(
    origin: Origin, fetch: Callable[..., ImageRecord], tmp_path: pathlib.Path
) -> None:
    made = image()
    publish(origin, made)
    protect(origin, login(tmp_path, HOST), "Basic")
    for name in (one["digest"] for one in made.layers):
        origin.resources[f"{BASE}/blobs/{name}"].redirect = f"https://cdn.example.com/{name}"
        origin.put(f"cdn.example.com/{name}", made.blobs[name])
    fetch()
    for name in (one["digest"] for one in made.layers):
        assert "Authorization" not in origin.asked(f"cdn.example.com/{name}")[0].headers


def test_redirect_to_a_private_address(
    origin: Origin, fetch: Callable[..., ImageRecord], tmp_path: pathlib.Path
) -> None:
    publish(origin, image())
    protect(origin, login(tmp_path, HOST), "Basic")
    plain = f"http://localhost:{origin.plain_port}/latest/meta-data"
    origin.put("localhost/latest/meta-data", "secrets")
    origin.resources[f"{BASE}/manifests/v1"].redirect = plain
    text = refusal(fetch, FetchError)
    assert text == f'"https://{BASE}/manifests/v1": redirects to plain http ("{plain}")'
    assert origin.asked("localhost/latest/meta-data") == []


# --- what a registry can do wrong --------------------------------------------------------------


def test_no_plain_http_unless_allowed(origin: Origin, fetch: Callable[..., ImageRecord]) -> None:
    publish(origin, image(), base="localhost/v2/app")
    address = f"docker://localhost:{origin.plain_port}/app:v1"
    with pytest.raises(FetchError) as caught:
        fetch(address)
    assert f'"https://localhost:{origin.plain_port}/v2/app/manifests/v1": ' in caught.value.message
    assert caught.value.hint == "allow plain http with --insecure-options=http"
    record = fetch(address, http=True)
    assert record.name == f"localhost_{origin.plain_port}/app"


def test_wrong_digest_of_a_layer(
    origin: Origin, fetch: Callable[..., ImageRecord], store: Store
) -> None:
    made = image()
    publish(origin, made)
    name = made.layers[0]["digest"]
    url = f"{BASE}/blobs/{name}"
    data = bytearray(made.blobs[name])
    data[-1] ^= 1
    origin.put(url, bytes(data))
    assert refusal(fetch, VerifyError) == f'"https://{url}": its digest is {digest(bytes(data))}'
    assert os.listdir(f"{store.path}/partial") == []
    origin.put(url, made.blobs[name][:-1])
    size = len(data)
    assert refusal(fetch, VerifyError) == f'"https://{url}": has {size - 1} bytes instead of {size}'
    origin.put(url, made.blobs[name] + b"x")
    text = refusal(fetch, FetchError)
    assert text == f'"https://{url}": larger than the {size} bytes allowed'
    assert all(one.name.startswith("oci-layer/") for one in store.list())
    origin.put(url, made.blobs[name])
    assert fetch().name == f"{HOST}/app"


def test_layer_that_stalls(origin: Origin, fetch: Callable[..., ImageRecord]) -> None:
    made = image()
    publish(origin, made)
    url = f"{BASE}/blobs/{made.layers[0]['digest']}"
    origin.resources[url].stall = 10
    text = refusal(fetch, FetchError)
    assert text == f'"https://{url}": the server stalls: no data for 1 s'
    origin.resources[url].stall = None


def test_missing_things(origin: Origin, fetch: Callable[..., ImageRecord]) -> None:
    made = image()
    url = f"https://{BASE}/manifests/v1"
    assert refusal(fetch, FetchError) == f'"{url}": bad HTTP status code: 404'
    publish(origin, made)
    config = made.config_descriptor["digest"]
    del origin.resources[f"{BASE}/blobs/{config}"]
    text = refusal(fetch, FetchError)
    assert text == f'"https://{BASE}/blobs/{config}": bad HTTP status code: 404'


def test_wrong_digests_of_documents(origin: Origin, fetch: Callable[..., ImageRecord]) -> None:
    made = image()
    manifest = publish(origin, made)
    config = made.config_descriptor["digest"]
    data = made.blobs[config].replace(b"linux", b"linuy")
    origin.put(f"{BASE}/blobs/{config}", data)
    text = refusal(fetch, VerifyError)
    assert text == (
        f'configuration of "{HOST}/app:v1": its digest is {digest(data)} instead of {config}'
    )
    wanted = digest(b"other")
    origin.put(f"{BASE}/manifests/{wanted}", manifest.body)
    text = refusal(fetch, VerifyError, address=f"docker://{HOST}/app@{wanted}")
    assert text == (
        f'manifest of "{HOST}/app@{wanted}": '
        f"its digest is {made.descriptor['digest']} instead of {wanted}"
    )
    manifest.headers["Docker-Content-Digest"] = wanted
    text = refusal(fetch, VerifyError)
    assert text == f'manifest of "{HOST}/app:v1": has not the digest that the registry announces'


DESCRIPTOR = {"digest": digest(b""), "size": 0}


@pytest.mark.parametrize(("document", "expected"), [
    ({"schemaVersion": 1, "name": "app", "fsLayers": []},
     "image manifest of schema 1, which is not supported"),
    ({"schemaVersion": 3}, "unknown schema version 3"),
    ({"schemaVersion": 2, "mediaType": "text/html"}, 'unknown media type "text/html"'),
    ({"schemaVersion": 2}, "manifest without config or layers"),
    ({"schemaVersion": 2, "mediaType": OCI_INDEX}, "index without manifests"),
    ({"schemaVersion": 2, "config": {**DESCRIPTOR, "mediaType": "application/helm"}, "layers": []},
     'not an image but "application/helm"'),
    ({"schemaVersion": 2, "config": DESCRIPTOR, "layers": [{**DESCRIPTOR, "mediaType": "x/y"}]},
     'unknown type of layer "x/y"'),
    ({"schemaVersion": 2, "config": DESCRIPTOR, "layers": [DESCRIPTOR] * 1001},
     "more than 1000 layers"),
    ({"schemaVersion": 2, "config": {"digest": "sha256:../../x", "size": 1}, "layers": []},
     'bad digest "sha256:../../x"'),
    ({"schemaVersion": 2, "config": {**DESCRIPTOR, "size": -1}, "layers": []},
     "size -1 is out of range"),
    ([], "expected `object`, got `array`"),
    ({"schemaVersion": 2, "config": {"digest": "md5:" + "0" * 32, "size": 1}, "layers": []},
     'bad digest "md5:' + "0" * 32 + '" - at $.config'),
    ({"schemaVersion": 2, "config": {"digest": "sha512:" + "0" * 64, "size": 1}, "layers": []},
     'bad digest "sha512:' + "0" * 64 + '" - at $.config'),
    ({"schemaVersion": 2, "config": {**DESCRIPTOR, "size": 2**70}, "layers": []},
     "size 1180591620717411303424 is out of range - at $.config"),
    ({"schemaVersion": 2, "config": {**DESCRIPTOR, "size": 1.5}, "layers": []},
     "expected `int`, got `float` - at $.config.size"),
])  # fmt: skip
def test_bad_manifests(
    origin: Origin, fetch: Callable[..., ImageRecord], document: object, expected: str
) -> None:
    origin.put(f"{BASE}/manifests/v1", encode(document))
    text = refusal(fetch, SchemaError)
    assert text.startswith(f'manifest of "{HOST}/app:v1": {expected}')


def test_a_manifest_that_is_too_large(origin: Origin, fetch: Callable[..., ImageRecord]) -> None:
    origin.put(f"{BASE}/manifests/v1", encode({"manifests": [DESCRIPTOR] * 60_000}))
    text = refusal(fetch, FetchError)
    assert text == f'"https://{BASE}/manifests/v1": larger than the {4 << 20} bytes allowed'


def test_bad_indexes(origin: Origin, fetch: Callable[..., ImageRecord]) -> None:
    made = image()
    publish(origin, made)
    platform = {"os": "linux", "architecture": "mips"}
    index = {"schemaVersion": 2, "manifests": [{**made.descriptor, "platform": platform}]}
    origin.put(f"{BASE}/manifests/v1", encode(index))
    text = refusal(fetch, FetchError)
    assert text == f'"{HOST}/app:v1": no image for linux/amd64, only for linux/mips'
    inner = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [made.descriptor]})
    for _ in range(3):
        origin.put(f"{BASE}/manifests/{digest(inner)}", inner)
        one = {"mediaType": OCI_INDEX, "digest": digest(inner), "size": len(inner)}
        inner = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [one]})
    origin.put(f"{BASE}/manifests/v1", inner)
    assert refusal(fetch, FetchError) == f'"{HOST}/app:v1": indexes of indexes'


def test_bad_layers(origin: Origin, fetch: Callable[..., ImageRecord], store: Store) -> None:
    for layer, expected in (
        (Layer.of(b"no tar at all" * 100), "malformed archive: bad "),
        (Layer().file("../../etc/passwd", "x"), 'entry "../../etc/passwd": path contains ".."'),
        (Layer().file(".wh..", ""), '".wh..": bad whiteout'),
        (Layer().file("a/.wh..", ""), '"a/.wh..": bad whiteout'),
        (Layer().file(".wh...", ""), '".wh...": bad whiteout'),
        (Layer().file("../.wh.x", ""), 'entry "../.wh.x": path contains ".."'),
        (Layer().file(".", "x"), '".": the root must be a directory'),
        (Layer().symlink("a", "b").symlink("b", "a").file("a/x"),
         '"a": too many levels of symbolic links'),
        (Layer().link("a", "../etc/passwd"), 'entry "../etc/passwd": path contains ".."'),
        (Layer().link("a", "b"), '"a": hard link to "b", which is no earlier file'),
        (Layer().file("x", "").file("x/y", ""), '"x": "x" is not a directory'),
    ):  # fmt: skip
        made = Image([layer])
        publish(origin, made)
        text = refusal(fetch, RktError)
        prefix = f"layer {made.layers[0]['digest']}: "
        assert text.removeprefix(prefix).startswith(expected), text
        assert store.list() == []
    damaged = Image([Layer().file("x", os.urandom(5000))])
    damaged.blobs[damaged.layers[0]["digest"]] = b""
    data = next(iter(Image([Layer().file("x", os.urandom(5000))]).layers))
    cut = Image([Layer().file("x", os.urandom(5000))])
    raw = cut.blobs[cut.layers[0]["digest"]][:-40]
    cut.manifest["layers"] = [cut.put(raw, data["mediaType"])]
    publish(origin, cut.reseal())
    text = refusal(fetch, RktError)
    assert text.endswith("gzip data of the archive is damaged: unexpected end of file")


def test_a_layer_that_needs_too_much_memory(
    origin: Origin, fetch: Callable[..., ImageRecord], tmp_path: pathlib.Path
) -> None:
    """What helps is said, whichever process found out."""
    made = Image([Layer().file("x", "")], compression="zstd")
    huge = b"\x28\xb5\x2f\xfd\x00\x88" + b"\x01\0\0"  # a window of 128 MiB
    descriptor = made.put(huge, made.layers[0]["mediaType"])
    made.manifest["layers"] = [descriptor]
    publish(origin, made.reseal())
    cause = "zstd data of the archive needs a window of 128 MiB: at most 64 MiB are allowed"
    hint = 'compress it again with "zstd -19" or less, without "--long"'
    with pytest.raises(RktError) as caught:
        fetch()
    assert caught.value.message == f"layer {descriptor['digest']}: {cause}"
    assert caught.value.hint == hint

    (tmp_path / "blob").write_bytes(huge)
    (tmp_path / "staging").mkdir()
    request = layers._Request("name", str(tmp_path / "staging"), False, len(huge), 0)
    with open(tmp_path / "blob", "rb") as blob:
        raw = layers._serve(msgspec.msgpack.encode(request), [blob.fileno()])
    answer = msgspec.msgpack.decode(raw, type=layers._Answer)
    assert (answer.kind, answer.text, answer.hint) == ("error", cause, hint)


def test_dev_must_be_a_directory(origin: Origin, fetch: Callable[..., ImageRecord]) -> None:
    publish(origin, Image([Layer().file("dev", "x")]))
    assert refusal(fetch, RktError) == 'invalid layer: "/dev" is not a directory'
