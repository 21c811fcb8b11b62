"""`rkt trust` and `rkt fetch` as a user types them: real keys, a real HTTPS server."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest

from rkt.config.insecure import InsecureOptions
from rkt.errors import UntrustedError
from rkt.fetch.finder import Finder, Options
from rkt.keystore.keys import Keystore
from rkt.store.images import Store
from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.origin import Origin
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rkt_testkit.acibuilder import Aci
    from rkt_testkit.context import Result, RktContext
    from rkt_testkit.keyring import Keyring

pytestmark = needs("root", "namespaces", "rkt", "gpg", "openssl")

NAME = "example.com/app"
PAGE, IMAGE = NAME, "example.com/dist/example.com-app.aci"
SIGNATURE = f"{IMAGE}.asc"
PREFIX_FLAG = f"--prefix={NAME}"


@pytest.fixture
def origin(rkt: RktContext) -> Iterator[Origin]:
    with Origin(netns=int(rkt.enter_argv()[2])) as running:
        rkt.env.update(running.env)
        yield running


@pytest.fixture
def build(rkt: RktContext, keyring: Keyring, publisher: str) -> Callable[[AciBuilder], Aci]:
    """Build and sign images."""

    def sign(builder: AciBuilder) -> Aci:
        return builder.build(rkt.files, keyring=keyring, fingerprint=publisher)

    return sign


@pytest.fixture
def aci(build: Callable[[AciBuilder], Aci]) -> Aci:
    return build(AciBuilder(NAME).file("hello", os.urandom(50_000)))


@pytest.fixture
def published(origin: Origin, aci: Aci, keyring: Keyring, publisher: str) -> Aci:
    """Publish the image with its signature, keys and discovery page."""
    origin.publish(NAME, aci, keys=keyring.export(publisher))
    return aci


@pytest.fixture
def trusted(rkt: RktContext, published: Aci) -> Aci:
    """Publish the image and trust its publisher."""
    rkt.rkt("trust", PREFIX_FLAG, "--skip-fingerprint-review")
    return published


def images(rkt: RktContext) -> dict[str, str]:
    """Give keys and verification of the stored images, read without rkt."""
    path = f"{rkt.data}/cas/db/db.sqlite"
    if not os.path.exists(path):
        return {}
    db = sqlite3.connect(path)
    try:
        return dict(db.execute("SELECT key, status FROM images"))
    finally:
        db.close()


def remains(rkt: RktContext) -> list[str]:
    """Give what of images and downloads is in the store."""
    found = []
    for kind in ("tree", "split", "blob", "sig", "manifest", "tmp", "partial", "imagelocks"):
        path = f"{rkt.data}/cas/{kind}"
        found += [f"{kind}/{name}" for name in os.listdir(path)] if os.path.isdir(path) else []
    return found


def assert_nothing(rkt: RktContext) -> None:
    """Check that a failed fetch left nothing."""
    assert images(rkt) == {}
    assert remains(rkt) == []


def refused(rkt: RktContext, *args: str) -> str:
    """Run a command that must fail with 254 and print nothing on stdout; gives stderr."""
    result = rkt.rkt(*args, status=254)
    assert result.stdout == ""
    return result.stderr


# --- trust -------------------------------------------------------------------------------------


def key_file(rkt: RktContext, data: bytes) -> str:
    """Write a key file."""
    path = f"{rkt.files}/key.gpg"
    with open(path, "wb") as file:
        file.write(data)
    return path


def spaced(fingerprint: str) -> str:
    """Write a fingerprint as the dialogue does."""
    groups = re.findall("....", fingerprint.upper())
    return " ".join(groups[:5]) + "  " + " ".join(groups[5:])


@pytest.mark.usefixtures("published")
def test_trust_by_discovery_as_in_the_guide(rkt: RktContext, publisher: str) -> None:
    result = rkt.rkt("trust", PREFIX_FLAG, input="yes\n")
    path = f"{rkt.local}/trustedkeys/prefix.d/{NAME}/{publisher}"
    assert result.stderr.splitlines() == [
        f'Prefix: "{NAME}"',
        'Key: "https://example.com/keys.gpg"',
        f"GPG key fingerprint is: {spaced(publisher)}",
        "  Test Publisher <publisher@example.com>",
        "Are you sure you want to trust this key (yes/no)? yes",
        f'Trusting "https://example.com/keys.gpg" for prefix "{NAME}".',
        f'Added key for prefix "{NAME}" at "{path}"',
    ]
    assert os.stat(path).st_mode & 0o777 == 0o644


@pytest.mark.usefixtures("published")
def test_trust_on_a_terminal(rkt: RktContext, publisher: str) -> None:
    terminal = rkt.terminal("trust", PREFIX_FLAG)
    terminal.read_until("(yes/no)? ")
    terminal.write("what\n")
    terminal.read_until("Please enter 'yes' or 'no'")
    terminal.read_until("(yes/no)? ")
    terminal.write("yes\n")
    terminal.read_until(publisher)
    assert terminal.wait() == 0


@pytest.mark.parametrize("binary", [True, False])
def test_trust_file_and_url(
    rkt: RktContext, origin: Origin, keyring: Keyring, publisher: str, binary: bool
) -> None:
    data = keyring.export(publisher, armored=not binary)
    origin.put("example.com/other.gpg", data)
    for location in (key_file(rkt, data), "https://example.com/other.gpg"):
        result = rkt.rkt("trust", PREFIX_FLAG, location, input="yes\n")
        assert f'Key: "{location}"' in result.stderr
        assert f'Added key for prefix "{NAME}" at "' in result.stderr


def test_trust_root(rkt: RktContext, keyring: Keyring, publisher: str, aci: Aci) -> None:
    path = key_file(rkt, keyring.export(publisher))
    result = rkt.rkt("trust", "--root", path, input="yes\n")
    added = f"{rkt.local}/trustedkeys/root.d/{publisher}"
    assert f'Added root key at "{added}"' in result.stderr
    assert "signature verified" in rkt.rkt("fetch", aci.path).stderr


@pytest.mark.usefixtures("published")
def test_decline(rkt: RktContext) -> None:
    result = rkt.rkt("trust", PREFIX_FLAG, input="no\n")
    assert 'not trusting "https://example.com/keys.gpg"' in result.stderr
    assert not os.path.exists(f"{rkt.local}/trustedkeys")
    text = refused(rkt, "trust", PREFIX_FLAG)
    assert "error adding keys: error reviewing key: standard input ended" in text
    assert not os.path.exists(f"{rkt.local}/trustedkeys")


@pytest.mark.usefixtures("published")
def test_without_review(rkt: RktContext) -> None:
    text = rkt.rkt("trust", PREFIX_FLAG, "--skip-fingerprint-review").stderr
    assert f'for prefix "{NAME}" without fingerprint review.' in text
    assert "(yes/no)" not in text


def test_key_file_with_several_keys(rkt: RktContext, keyring: Keyring, publisher: str) -> None:
    second = keyring.make("Second\x1b[31m <second@example.com>")
    keyring.add_subkey(second)
    path = key_file(rkt, keyring.export(publisher, second))
    result = rkt.rkt("trust", PREFIX_FLAG, path, input="no\nyes\n")
    assert result.stderr.count("(yes/no)?") == 2
    assert "    Subkey fingerprint: " in result.stderr
    assert "  Second\\x1b[31m <second@example.com>" in result.stderr
    assert os.listdir(f"{rkt.local}/trustedkeys/prefix.d/{NAME}") == [second]


def test_no_tags(rkt: RktContext, origin: Origin) -> None:
    origin.page("example.com")
    text = refused(rkt, "trust", "--prefix=example.com")
    assert text == (
        "Error determining key location: --prefix meta discovery error: found no ACI meta tags\n"
    )
    origin.page("example.com", ("ac-discovery", "example.com https://example.com/x.{ext}"))
    text = refused(rkt, "trust", "--prefix=example.com")
    assert text.endswith("error: meta discovery on example.com resulted in no keys\n")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["KEY"], "aborting due to implicit unbounded trust (root domain)"),
        (["--root", "--prefix=a", "KEY"], "--root and --prefix usage mutually exclusive"),
        (["--prefix=https://a"], "--prefix must not contain a URL scheme, omit https://"),
        (["--prefix=a", "/none"], 'error accessing the key "/none": No such file or directory'),
        (["--prefix=a", "ftp://x/y"], "only local files and http or https URLs supported"),
        (["--prefix=a", "http://x/y"], "--insecure-allow-http required for http URLs"),
        (["--prefix=a", "https://example.com/none"], "bad HTTP status code: 404"),
        (["--prefix=a", "/etc/hostname"], "this is not OpenPGP data"),
        (["--prefix=A b", "KEY"], '--prefix "A b" is not an image name'),
        (["--prefix=a/../../b", "KEY"], "cannot be the name of a directory"),
        (["--insecure-options=image", "--prefix=a", "KEY"], "could not get the keystore"),
    ],
)
def test_trust_refuses(
    rkt: RktContext, origin: Origin, keyring: Keyring, publisher: str, args: list[str], text: str
) -> None:
    assert origin.port
    path = key_file(rkt, keyring.export(publisher))
    words = [path if word == "KEY" else word for word in args]
    result = rkt.rkt("trust", *words, status=254, input="yes\n")
    assert text in result.stderr
    assert not os.path.exists(f"{rkt.local}/trustedkeys/prefix.d")


def test_secret_key_is_not_taken(rkt: RktContext, keyring: Keyring, publisher: str) -> None:
    secret = keyring.gpg("--export-secret-keys", publisher)
    text = refused(rkt, "trust", PREFIX_FLAG, key_file(rkt, secret))
    assert "the file holds a secret key, not a public key" in text


# --- fetch -------------------------------------------------------------------------------------


def test_fetch_by_name_as_in_the_guide(rkt: RktContext, trusted: Aci) -> None:
    result = rkt.rkt("fetch", f"{NAME}:1.0.0")
    assert result.stdout == trusted.id[:39] + "\n"
    lines = result.stderr.splitlines()
    assert lines[:3] == [
        f"rkt: searching for app image {NAME}:1.0.0",
        f"rkt: fetching image from https://{IMAGE}",
        f"Downloading signature from https://{SIGNATURE}",
    ]
    assert re.fullmatch(r"Downloading aci: \[=+\] [0-9.]+ KB/[0-9.]+ KB", lines[3])
    assert lines[4:] == ["rkt: signature verified:", "  Test Publisher <publisher@example.com>"]
    assert images(rkt) == {trusted.key: "verified"}
    assert os.path.exists(f"{rkt.data}/cas/tree/{trusted.key}/rootfs/hello")
    assert os.listdir(f"{rkt.data}/cas/partial") == []


@pytest.mark.usefixtures("trusted")
def test_progress_bar_on_a_terminal(rkt: RktContext, trusted: Aci) -> None:
    terminal = rkt.terminal("fetch", NAME)
    text = terminal.read_until(trusted.id[:39])
    assert terminal.wait() == 0
    assert "\rDownloading aci: [=" in text


def test_fetch_by_url_file_and_hash(rkt: RktContext, trusted: Aci) -> None:
    for address in (f"https://{IMAGE}", trusted.path, f"file://{trusted.path}"):
        result = rkt.rkt("fetch", "--full", "--no-store", address)
        assert result.stdout == trusted.key + "\n"
    assert rkt.rkt("fetch", trusted.id[:12]).stdout == trusted.id[:39] + "\n"
    assert "no image IDs found" in refused(rkt, "fetch", "sha512-00")
    assert images(rkt) == {trusted.key: "verified"}


def test_several_images_in_order(rkt: RktContext, trusted: Aci) -> None:
    result = rkt.rkt("fetch", trusted.path, f"https://{IMAGE}")
    assert result.stdout.split() == [trusted.id[:39]] * 2
    result = rkt.rkt("fetch", trusted.path, "/none.aci", status=254)
    assert result.stdout.split() == [trusted.id[:39]]
    assert "must provide at least one image" in rkt.rkt("fetch", status=254).stderr


def test_signature_from_elsewhere(rkt: RktContext, origin: Origin, trusted: Aci) -> None:
    origin.resources["example.com/s"] = origin.resources.pop(SIGNATURE)
    assert "bad HTTP status code: 404" in refused(rkt, "fetch", f"https://{IMAGE}")
    rkt.rkt("fetch", f"https://{IMAGE}", "--signature=https://example.com/s")
    os.rename(trusted.signature, f"{rkt.files}/s")
    assert "error opening signature file" in refused(rkt, "fetch", trusted.path)
    rkt.rkt("fetch", trusted.path, f"--signature={rkt.files}/s")


def test_signature_by_a_stranger_after_a_good_one(
    rkt: RktContext, trusted: Aci, keyring: Keyring
) -> None:
    rkt.rkt("fetch", trusted.path)
    stranger = keyring.make("A Stranger <stranger@example.com>")
    with open(trusted.path, "rb") as image, open(f"{rkt.files}/s", "wb") as file:
        file.write(keyring.sign(stranger, image.read()))
    text = rkt.rkt("fetch", trusted.path, f"--signature={rkt.files}/s").stderr
    assert text == (
        f"rkt: warning: the signature is by key {stranger[-16:].upper()}, which is not trusted "
        f'for image "{NAME}"; what verified it before still counts\n'
    )
    assert images(rkt) == {trusted.key: "verified"}


def test_no_second_download(rkt: RktContext, origin: Origin, trusted: Aci) -> None:
    origin.resources[IMAGE].etag = '"one"'
    rkt.rkt("fetch", NAME)
    for args in ((NAME,), (f"https://{IMAGE}",)):
        text = rkt.rkt("fetch", *args).stderr
        assert f"rkt: found image in local store, skipping fetching from https://{IMAGE}" in text
        assert "Downloading" not in text
    assert len(origin.asked(IMAGE)) == 3
    assert len(origin.asked(SIGNATURE)) == 1
    origin.requests.clear()
    for args in ((NAME,), (f"{NAME}:1.0.0",), (f"https://{IMAGE}",)):
        assert rkt.rkt("fetch", "--pull-policy=new", *args).stdout.strip() == trusted.id[:39]
        assert rkt.rkt("fetch", "--store-only", *args).stdout.strip() == trusted.id[:39]
    assert origin.requests == []


@pytest.mark.usefixtures("trusted")
def test_max_age_spares_the_question(rkt: RktContext, origin: Origin) -> None:
    origin.resources[IMAGE].headers["Cache-Control"] = "public, max-age=1000"
    rkt.rkt("fetch", f"https://{IMAGE}")
    origin.requests.clear()
    rkt.rkt("fetch", f"https://{IMAGE}")
    assert origin.requests == []


def test_changed_image_is_fetched_again(
    rkt: RktContext, origin: Origin, trusted: Aci, build: Callable[[AciBuilder], Aci],
    keyring: Keyring, publisher: str,
) -> None:  # fmt: skip
    origin.resources[IMAGE].etag = '"one"'
    rkt.rkt("fetch", NAME)
    newer = build(AciBuilder(NAME, version="2.0.0"))
    origin.publish(NAME, newer, keys=keyring.export(publisher))
    origin.resources[IMAGE].etag = '"two"'
    assert rkt.rkt("fetch", NAME).stdout.strip() == newer.id[:39]
    assert images(rkt) == {trusted.key: "verified", newer.key: "verified"}
    assert rkt.rkt("fetch", "--pull-policy=new", NAME).stdout.strip() == newer.id[:39]


def test_unknown_signer_is_stored_unverified(
    rkt: RktContext, published: Aci, publisher: str
) -> None:
    result = rkt.rkt("fetch", NAME)
    assert result.stdout == published.id[:39] + "\n"
    key_id = publisher[-16:].upper()
    (line,) = [line for line in result.stderr.splitlines() if "unverified" in line]
    assert f"signed by key {key_id}" in line
    assert line.endswith(f"rkt trust --prefix={NAME}")
    assert "signature verified" not in result.stderr
    assert f' - run: rkt trust --prefix "{NAME}"' in result.stderr
    assert images(rkt) == {published.key: "unverified"}
    assert not os.path.exists(f"{rkt.data}/cas/tree/{published.key}")


def test_unverified_image_is_not_executed_until_its_key_is_trusted(
    rkt: RktContext, origin: Origin, published: Aci, publisher: str
) -> None:
    rkt.rkt("fetch", NAME)
    store, keystore = Store(rkt.data), Keystore(system=rkt.system, local=rkt.local)
    finder = Finder(store, keystore, Options())
    with pytest.raises(UntrustedError) as caught:
        finder.require_trusted(finder.find(NAME))
    assert publisher[-16:].upper() in caught.value.message
    assert f'refusing to execute image "{NAME}", which is not verified' in caught.value.message
    assert caught.value.hint == f"rkt trust --prefix={NAME}"

    lax = Finder(store, keystore, Options(insecure=InsecureOptions(image=True)))
    assert lax.require_trusted(lax.find(NAME)).unpacked

    rkt.rkt("trust", PREFIX_FLAG, "--skip-fingerprint-review")
    origin.requests.clear()
    record = finder.require_trusted(finder.find(NAME))
    assert record.verification.status == "verified"
    assert record.verification.fingerprint == publisher
    assert record.verification.prefix == NAME
    assert os.path.exists(f"{store.tree_path(published.key)}/rootfs/hello")
    assert origin.requests == []
    store.close()


def test_trusted_later_needs_no_second_download(
    rkt: RktContext, origin: Origin, published: Aci
) -> None:
    rkt.rkt("fetch", NAME)
    rkt.rkt("trust", PREFIX_FLAG, "--skip-fingerprint-review")
    origin.requests.clear()
    result = rkt.rkt("fetch", "--pull-policy=new", f"https://{IMAGE}")
    assert "rkt: signature verified:" in result.stderr
    assert origin.requests == []
    assert images(rkt) == {published.key: "verified"}


def test_damaged_archive_in_the_store_is_not_verified(rkt: RktContext, published: Aci) -> None:
    rkt.rkt("fetch", NAME)
    rkt.rkt("trust", PREFIX_FLAG, "--skip-fingerprint-review")
    with open(f"{rkt.data}/cas/blob/{published.key}", "r+b") as file:
        file.seek(5000)
        file.write(b"evil")
    text = refused(rkt, "fetch", "--pull-policy=new", f"https://{IMAGE}")
    assert "rkt: bad signature" in text
    assert images(rkt) == {published.key: "unverified"}


def test_unverified_dependency_is_not_executed(
    rkt: RktContext, publish: Callable[[AciBuilder], Aci], keyring: Keyring, origin: Origin
) -> None:
    stranger = keyring.make("Stranger <stranger@example.org>")
    base = AciBuilder("example.com/base").build(rkt.files, keyring=keyring, fingerprint=stranger)
    origin.publish("example.com/base", base)
    publish(depending("example.com/top", {"imageName": "example.com/base"}))
    result = rkt.rkt("fetch", "example.com/top")
    assert 'image "example.com/base" is stored unverified' in result.stderr
    store, keystore = Store(rkt.data), Keystore(system=rkt.system, local=rkt.local)
    finder = Finder(store, keystore, Options())
    with pytest.raises(UntrustedError) as caught:
        finder.require_trusted(finder.find("example.com/top"))
    assert 'refusing to execute image "example.com/base"' in caught.value.message
    assert caught.value.key_id == stranger[-16:].upper()
    store.close()


def test_many_at_once_download_once(rkt: RktContext, origin: Origin, trusted: Aci) -> None:
    running = [rkt.spawn("fetch", NAME) for _ in range(4)]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.decode().strip() == trusted.id[:39]
    assert len(origin.asked(SIGNATURE)) == len(origin.asked(IMAGE))
    assert images(rkt) == {trusted.key: "verified"}
    assert os.listdir(f"{rkt.data}/cas/partial") == []


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_in_the_middle(rkt: RktContext, origin: Origin, number: signal.Signals) -> None:
    origin.resources[IMAGE].stall = 20_000
    process = rkt.spawn("fetch", NAME)
    rkt.wait_for(lambda: len(origin.asked(IMAGE)) == 1)
    process.send_signal(number)
    assert process.wait(10) == -number
    assert_nothing(rkt)
    assert os.listdir(f"{rkt.data}/cas/partial") == []


@pytest.mark.usefixtures("trusted")
def test_nohup_is_respected(rkt: RktContext, origin: Origin) -> None:
    origin.resources[IMAGE].stall = 20_000
    argv = [*rkt.enter_argv(), "nohup", *rkt.argv("fetch", NAME)[len(rkt.enter_argv()) :]]
    process = subprocess.Popen(argv, env=rkt.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    rkt.wait_for(lambda: len(origin.asked(IMAGE)) == 1)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == -signal.SIGTERM


def test_killed_in_the_middle(rkt: RktContext, origin: Origin, trusted: Aci) -> None:
    origin.resources[IMAGE].stall = 20_000
    process = rkt.spawn("fetch", NAME)
    rkt.wait_for(lambda: len(origin.asked(IMAGE)) == 1)
    process.kill()
    process.wait()
    origin.resources[IMAGE].stall = None
    assert rkt.rkt("fetch", NAME).stdout.strip() == trusted.id[:39]
    assert os.listdir(f"{rkt.data}/cas/partial") == []


def test_key_reviewed_during_a_fetch(rkt: RktContext, published: Aci, publisher: str) -> None:
    terminal = rkt.terminal("fetch", NAME)
    text = terminal.read_until("(yes/no)? ")
    assert f"GPG key fingerprint is: {spaced(publisher)}" in text
    terminal.write("yes\n")
    text = terminal.read_until(published.id[:39])
    assert terminal.wait() == 0
    assert "signature verified:" in text
    assert images(rkt) == {published.key: "verified"}


def test_key_declined_during_a_fetch(rkt: RktContext, published: Aci) -> None:
    terminal = rkt.terminal("fetch", NAME)
    terminal.read_until("(yes/no)? ")
    terminal.write("no\n")
    text = terminal.read_until(published.id[:39])
    assert terminal.wait() == 0
    assert 'not trusting "https://example.com/keys.gpg"' in text
    assert images(rkt) == {published.key: "unverified"}


def test_keys_from_https_without_a_question(rkt: RktContext, published: Aci) -> None:
    text = rkt.rkt("--trust-keys-from-https", "fetch", NAME).stderr
    assert "without fingerprint review." in text
    assert images(rkt) == {published.key: "verified"}


def test_key_for_another_prefix_does_not_count(
    rkt: RktContext, published: Aci, keyring: Keyring, publisher: str
) -> None:
    path = key_file(rkt, keyring.export(publisher))
    rkt.rkt("trust", "--prefix=example.org", "--skip-fingerprint-review", path)
    for address in (NAME, f"https://{IMAGE}", published.path):
        result = rkt.rkt("fetch", "--no-store", address)
        assert "is stored unverified" in result.stderr
        assert "signature verified" not in result.stderr
        assert images(rkt) == {published.key: "unverified"}


def test_insecure_image(rkt: RktContext, origin: Origin, published: Aci) -> None:
    del origin.resources[SIGNATURE]
    result = rkt.rkt("--insecure-options=image", "fetch", NAME)
    assert "rkt: warning: signature verification has been disabled" in result.stderr
    assert images(rkt) == {published.key: "skipped"}
    assert "404" in refused(rkt, "fetch", NAME)


def test_several_images_without_verification_are_one_warning(rkt: RktContext) -> None:
    paths = [AciBuilder(f"example.com/{name}").build(rkt.files).path for name in "ab"]
    result = rkt.rkt("--insecure-options=image", "fetch", *paths)
    assert result.stderr == "rkt: warning: signature verification has been disabled\n"


@pytest.mark.usefixtures("origin")
def test_skipped_image_is_verified_by_a_later_fetch(rkt: RktContext, trusted: Aci) -> None:
    for address in (NAME, f"https://{IMAGE}"):
        rkt.rkt("--insecure-options=image", "fetch", address)
    assert images(rkt) == {trusted.key: "skipped"}
    assert "signature verified:" in rkt.rkt("fetch", NAME).stderr
    assert images(rkt) == {trusted.key: "verified"}
    rkt.rkt("--insecure-options=image", "fetch", NAME)
    assert images(rkt) == {trusted.key: "verified"}


def test_hostile_labels_of_a_dependency(
    rkt: RktContext, publish: Callable[[AciBuilder], Aci]
) -> None:
    label = {"name": "version", "value": "1\x1b[2J\r\n../../x?y#z"}
    publish(depending("example.com/top", {"imageName": "example.com/base", "labels": [label]}))
    text = refused(rkt, "fetch", "example.com/top")
    assert "\x1b" not in text
    assert "searching for app image example.com/base:1\\x1b[2J" in text


@pytest.mark.usefixtures("published")
def test_insecure_skip_verify_needs_neither_key_nor_authority(
    rkt: RktContext, published: Aci
) -> None:
    rkt.env["SSL_CERT_FILE"] = "/dev/null"
    assert "TLS certificate verification failed" in refused(rkt, "fetch", NAME)
    result = rkt.rkt("--insecure-skip-verify", "fetch", NAME)
    assert "rkt: warning: signature verification has been disabled" in result.stderr
    assert "rkt: warning: TLS verification has been disabled" in result.stderr
    assert images(rkt) == {published.key: "skipped"}


# --- what must be refused ------------------------------------------------------------------------


def test_one_changed_byte(rkt: RktContext, origin: Origin, trusted: Aci) -> None:
    body = bytearray(origin.resources[IMAGE].body)
    body[len(body) // 2] ^= 1
    origin.resources[IMAGE].body = bytes(body)
    for address in (NAME, f"https://{IMAGE}"):
        text = refused(rkt, "fetch", address)
        assert "is refused: bad signature: the data is not what key" in text
        assert_nothing(rkt)
    with open(trusted.path, "wb") as file:
        file.write(body)
    assert "is refused: bad signature" in refused(rkt, "fetch", trusted.path)
    assert_nothing(rkt)


@pytest.mark.usefixtures("trusted")
def test_corrupt_signatures(
    rkt: RktContext, origin: Origin, keyring: Keyring, publisher: str
) -> None:
    for body in (b"", b"<html>", origin.resources[SIGNATURE].body[:60]):
        origin.resources[SIGNATURE].body = body
        text = refused(rkt, "fetch", NAME)
        assert "is refused: no valid signatures found in signature file" in text
        assert_nothing(rkt)
    origin.resources[SIGNATURE].body = bytes(2 << 20)
    assert "larger than the 262144 bytes allowed" in refused(rkt, "fetch", NAME)
    sha1 = keyring.sign(publisher, origin.resources[IMAGE].body, digest="SHA1")
    origin.resources[SIGNATURE].body = sha1
    assert "over a SHA-1 digest, which can be forged" in refused(rkt, "fetch", NAME)
    assert_nothing(rkt)


def test_expired_and_revoked_keys(
    rkt: RktContext, origin: Origin, published: Aci, keyring: Keyring
) -> None:
    old = keyring.make("Old <old@example.com>", expire="2d", faked="20200101T000000")
    gone = keyring.make("Gone <gone@example.com>")
    body = origin.resources[IMAGE].body
    for maker, faked, text in (
        (old, "20200101T120000", '"Old <old@example.com>" has expired on 2020-01-03'),
        (gone, "", '"Gone <gone@example.com>" has been revoked'),
    ):
        origin.resources[SIGNATURE].body = keyring.sign(maker, body, faked=faked)
        if maker == gone:
            keyring.revoke(gone)
        path = key_file(rkt, keyring.export(maker))
        rkt.rkt("trust", PREFIX_FLAG, "--skip-fingerprint-review", path)
        for address in (NAME, f"https://{IMAGE}"):
            assert text in refused(rkt, "fetch", address)
            assert_nothing(rkt)
    assert published.name == NAME


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("status", [401, 404, 500])
@pytest.mark.parametrize("what", [PAGE, IMAGE, SIGNATURE])
def test_bad_status(rkt: RktContext, origin: Origin, what: str, status: int) -> None:
    origin.page("example.com").status = status
    origin.resources[what].status = status
    text = refused(rkt, "fetch", NAME)
    assert f"bad HTTP status code: {status}" in text
    is_unsigned = what == SIGNATURE and status == 404
    assert ("hint: an image without a signature" in text) == is_unsigned
    assert_nothing(rkt)


@pytest.mark.usefixtures("trusted")
def test_truncated_download(rkt: RktContext, origin: Origin) -> None:
    origin.resources[IMAGE].cut = 1000
    text = refused(rkt, "fetch", NAME)
    assert "cut short: the body ended after 1000 of" in text
    assert_nothing(rkt)


def test_download_continued_after_a_break(rkt: RktContext, origin: Origin, trusted: Aci) -> None:
    image = origin.resources[IMAGE]
    image.ranges, image.etag, image.cut = True, '"one"', 20_000
    refused(rkt, "fetch", NAME)
    assert images(rkt) == {}
    assert len(os.listdir(f"{rkt.data}/cas/partial")) == 2
    image.cut = None
    origin.requests.clear()
    assert rkt.rkt("fetch", NAME).stdout.strip() == trusted.id[:39]
    assert origin.asked(IMAGE)[0].headers["Range"] == "bytes=20000-"
    assert os.listdir(f"{rkt.data}/cas/partial") == []


def test_deferred_signature(rkt: RktContext, origin: Origin, trusted: Aci) -> None:
    origin.resources[SIGNATURE].status = 202
    origin.resources[SIGNATURE].faults = 1
    text = rkt.rkt("fetch", NAME).stderr
    assert "rkt: server requested deferring the signature download" in text
    assert images(rkt) == {trusted.key: "verified"}
    origin.resources[SIGNATURE].faults = None
    assert "the signature is still not there" in refused(rkt, "fetch", NAME)


@pytest.mark.usefixtures("trusted")
def test_page_without_tags_and_host_without_certificate(rkt: RktContext, origin: Origin) -> None:
    origin.page(PAGE)
    origin.page("example.com")
    text = refused(rkt, "fetch", NAME)
    assert f'rkt: discovery failed for "{NAME}": found no ACI meta tags' in text
    text = refused(rkt, "fetch", "example.org/app")
    assert "TLS certificate verification failed: Hostname mismatch" in text
    assert_nothing(rkt)


def test_another_name_than_asked_for(
    rkt: RktContext, origin: Origin, build: Callable[[AciBuilder], Aci], keyring: Keyring,
    publisher: str,
) -> None:  # fmt: skip
    other = build(AciBuilder("example.com/other"))
    origin.publish(NAME, other, keys=keyring.export(publisher))
    rkt.rkt("trust", "--prefix=example.com", "--skip-fingerprint-review", key_file(
        rkt, keyring.export(publisher)))  # fmt: skip
    text = refused(rkt, "fetch", NAME)
    assert (
        f'error when reading the app name: "{NAME}" expected but "example.com/other" found' in text
    )
    assert_nothing(rkt)


@pytest.mark.usefixtures("trusted")
def test_other_labels_than_asked_for(rkt: RktContext) -> None:
    text = refused(rkt, "fetch", f"{NAME}:2.0.0")
    assert 'requested value for label "version": "2.0.0" differs from fetched aci label' in text
    text = refused(rkt, "fetch", f"{NAME},flavour=mint")
    assert 'requested label "flavour" not provided by the image manifest' in text
    assert_nothing(rkt)


@pytest.mark.usefixtures("origin")
def test_hostile_name_of_an_image_is_harmless_on_the_terminal(
    rkt: RktContext, build: Callable[[AciBuilder], Aci]
) -> None:
    builder = AciBuilder("example.com/x")
    builder.manifest["name"] = "example.com/\x1b]0;x"
    result: Result = rkt.rkt("fetch", build(builder).path, status=254)
    assert "\x1b" not in result.stderr
    assert_nothing(rkt)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("docker://busybox", "signature verification for docker images is not supported"),
        ("https://example.com/app", "invalid image string"),
        ("/none.aci", 'error opening ACI file "/none.aci": No such file or directory'),
        ("Example.com/App", 'invalid image string "Example.com/App": ACIdentifier must contain'),
        ("example.com/app:1:2", "malformed app string - colon may appear at most once"),
        ("sha512-a", "image ID too short"),
    ],
)
def test_bad_addresses(rkt: RktContext, address: str, text: str) -> None:
    assert text in refused(rkt, "fetch", address)
    for flag in ("--store-only", "--local", "--pull-policy=never"):
        assert "unable to fetch image" in refused(rkt, "fetch", flag, "example.com/app")
    for flag in ("--store-only", "--local"):
        text = refused(rkt, "fetch", flag, "--no-store", "example.com/app")
        assert text.endswith("rkt: both --store-only and --no-store specified\n")


@pytest.mark.usefixtures("trusted")
def test_another_name_of_fetch(rkt: RktContext) -> None:
    done = rkt.rkt("image", "fetch", NAME)
    assert done.stdout.startswith("sha512-")
    assert "rkt: signature verified:\n" in done.stderr
    listed = rkt.rkt("help", "image").stdout
    assert "fetch" not in listed
    assert rkt.rkt("help", "image", "fetch").stdout == rkt.rkt("help", "fetch").stdout


@pytest.mark.usefixtures("trusted")
def test_no_hint_to_go_without_a_check_where_the_way_is_barred(rkt: RktContext) -> None:
    for name, value in (("SSL_CERT_FILE", "/dev/null"), ("HTTPS_PROXY", "http://localhost:1")):
        done = rkt.rkt("fetch", f"https://{IMAGE}", env={name: value}, status=254)
        assert "rkt: error downloading the signature file: " in done.stderr
        assert "hint:" not in done.stderr


# --- dependencies --------------------------------------------------------------------------------


def depending(name: str, *others: dict[str, object]) -> AciBuilder:
    """Make an image that depends on others."""
    builder = AciBuilder(name)
    builder.manifest["dependencies"] = list(others)
    return builder


@pytest.fixture
def publish(
    rkt: RktContext, origin: Origin, build: Callable[[AciBuilder], Aci], keyring: Keyring,
    publisher: str,
) -> Callable[[AciBuilder], Aci]:  # fmt: skip
    """Publish images whose maker is trusted."""
    path = key_file(rkt, keyring.export(publisher))
    rkt.rkt("trust", "--prefix=example.com", "--skip-fingerprint-review", path)

    def put(builder: AciBuilder) -> Aci:
        aci = build(builder)
        origin.publish(builder.name, aci)
        return aci

    return put


def test_dependencies_are_fetched(rkt: RktContext, publish: Callable[[AciBuilder], Aci]) -> None:
    base = publish(AciBuilder("example.com/base"))
    libs = publish(depending(
        "example.com/libs", {"imageName": "example.com/base", "imageID": base.id},
    ))  # fmt: skip
    top = publish(depending(
        "example.com/top",
        {"imageName": "example.com/libs", "labels": [{"name": "version", "value": "1.0.0"}]},
        {"imageName": "example.com/base"},
    ))  # fmt: skip
    result = rkt.rkt("fetch", "example.com/top")
    assert result.stdout.strip() == top.id[:39]
    assert result.stderr.count("signature verified:") >= 3
    assert set(images(rkt)) == {base.key, libs.key, top.key}


def test_dependency_with_another_id(rkt: RktContext, publish: Callable[[AciBuilder], Aci]) -> None:
    publish(AciBuilder("example.com/base"))
    wanted = "sha512-" + "ab" * 64
    publish(depending("example.com/top", {"imageName": "example.com/base", "imageID": wanted}))
    text = refused(rkt, "fetch", "example.com/top")
    assert f'its dependency "example.com/base" must have ID {wanted}' in text


def test_dependency_that_is_not_there(
    rkt: RktContext, publish: Callable[[AciBuilder], Aci]
) -> None:
    base = publish(AciBuilder("example.com/base"))
    builder = depending("example.com/top", {"imageName": "example.com/base"},
                        {"imageName": "example.com/missing"})  # fmt: skip
    top = publish(builder)
    missing = 'discovery failed for "example.com/missing"'
    assert missing in refused(rkt, "fetch", "example.com/top")
    assert set(images(rkt)) == {top.key, base.key}
    text = refused(rkt, "fetch", "--pull-policy=new", "example.com/top")
    assert missing in text
    assert "fetching image from" not in text


def test_dependency_cycle(rkt: RktContext, publish: Callable[[AciBuilder], Aci]) -> None:
    publish(depending("example.com/a", {"imageName": "example.com/b"}))
    publish(depending("example.com/b", {"imageName": "example.com/a"}))
    text = refused(rkt, "fetch", "example.com/a")
    assert 'image "example.com/b": it depends on "example.com/a", which needs it' in text
