"""Where the access key is looked for, and what it is sent to."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorbay_server import TensorBayServer

from flowercnn._utils.files import expanded, user_cache
from flowercnn.errors import ConfigurationError, SourceError
from flowercnn.models.weights import keras_cache
from flowercnn.sources.flowers import Flower17
from flowercnn.sources.tensorbay import TensorBay
from flowercnn.sources.tensorbay.api import roots_of
from flowercnn.sources.tensorbay.credentials import Secret, find_credentials

Serve = Callable[..., TensorBayServer]
Read = Callable[..., TensorBay]


def profile(text: str) -> None:
    path = Path("~/.gasconfig").expanduser()
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def found(access_key: str | None = None, name: str = "default") -> str | None:
    return find_credentials(None if access_key is None else Secret(access_key), name).key.reveal()


def test_the_key_is_looked_for_in_the_stated_order(monkeypatch: pytest.MonkeyPatch) -> None:
    profile("[profiles]\ndefault = \n\tAccesskey-profile\n")
    assert found() == "Accesskey-profile"
    monkeypatch.setenv("TENSORBAY_ACCESS_KEY", "Accesskey-second")
    assert found() == "Accesskey-second"
    monkeypatch.setenv("FLOWERCNN_TENSORBAY_KEY", "Accesskey-first")
    assert found() == "Accesskey-first"
    assert found("Accesskey-argument") == "Accesskey-argument"


def test_an_empty_variable_is_passed_over_and_white_space_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWERCNN_TENSORBAY_KEY", " ")
    monkeypatch.setenv("TENSORBAY_ACCESS_KEY", "Accesskey-1\n")
    assert found() == "Accesskey-1"


def test_the_profile_brings_its_address(server: TensorBayServer, read: Read) -> None:
    profile(f"[profiles]\nother = \n\t{server.key}\n\t{server.url}\n")
    source = read(server, access_key=None, url=None, profile="other")
    assert len(list(source)) == 18


def test_profiles_of_old_sdks_are_understood(server: TensorBayServer, read: Read) -> None:
    profile(f"[default]\naccessKey = {server.key}\nurl = {server.url}\n")
    assert len(list(read(server, access_key=None, url=None))) == 18


def test_an_address_given_is_taken_instead_of_the_profiles(
    server: TensorBayServer, read: Read
) -> None:
    profile(f"[profiles]\ndefault = \n\t{server.key}\n\thttps://127.0.0.1:1/\n")
    assert len(list(read(server, access_key=None))) == 18


def test_the_key_is_not_sent_to_an_unsafe_address_of_a_profile(
    read: Read, server: TensorBayServer
) -> None:
    profile(f"[profiles]\ndefault = \n\t{server.key}\n\thttp://gas.graviti.cn/\n")
    with pytest.raises(ConfigurationError, match="https because the access key is sent there"):
        list(read(server, access_key=None, url=None))


def test_another_profile_is_not_taken() -> None:
    profile("[profiles]\ndefault = \n\tAccesskey-profile\n")
    with pytest.raises(ConfigurationError, match="writes the profile 'work'"):
        found(name="work")


@pytest.mark.parametrize("text", ["Accesskey-lost-in-no-section\n", "[profiles\n", "\0\xff"])
def test_a_broken_profile_is_told_without_quoting_it(text: str) -> None:
    profile(text)
    with pytest.raises(
        ConfigurationError, match=".gasconfig: not a file 'gas auth' has written"
    ) as caught:
        found()
    assert "lost" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("where", ["FLOWERCNN_TENSORBAY_KEY", "TENSORBAY_ACCESS_KEY"])
def test_a_key_of_the_wrong_form_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv(where, "my-secret")
    with pytest.raises(ConfigurationError, match=f"{where} must begin with") as caught:
        TensorBay("Flowers")
    assert "my-secret" not in str(caught.value)


def test_a_key_of_the_wrong_form_names_the_profile() -> None:
    profile("[profiles]\ndefault = \n\tmy-secret\n")
    with pytest.raises(ConfigurationError, match="the profile 'default' must begin with") as caught:
        TensorBay("Flowers")
    assert "my-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "key", "roots"),
    [
        ("", "Accesskey-1", ["https://gas.graviti.cn/"]),
        ("", "ACCESSKEY-1", ["https://gas.graviti.com/"]),
        ("", None, ["https://gas.graviti.cn/", "https://gas.graviti.com/"]),
        ("https://tensorbay.example", "Accesskey-1", ["https://tensorbay.example/"]),
        ("https://tensorbay.example:8443/", "ACCESSKEY-1", ["https://tensorbay.example:8443/"]),
    ],
)
def test_the_region_follows_from_the_key_unless_an_address_is_given(
    url: str, key: str | None, roots: list[str]
) -> None:
    assert roots_of(url, Secret(key)) == [
        f"{root}gatewayv2/tensorbay-open-api/v1/" for root in roots
    ]


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, dataclasses.replace])
def test_a_copy_keeps_the_key(server: TensorBayServer, read: Read, make: Any) -> None:
    assert len(list(make(read(server)))) == 18


def test_a_source_that_was_pickled_looks_for_the_key_anew(
    server: TensorBayServer, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pickle.loads(pickle.dumps(read(server)))  # noqa: S301 - it is our own
    with pytest.raises(ConfigurationError, match="TensorBay needs an access key"):
        list(source)
    monkeypatch.setenv("FLOWERCNN_TENSORBAY_KEY", server.key)
    assert len(list(source)) == 18


def test_the_key_goes_to_tensorbay_and_not_to_the_store_of_files(
    server: TensorBayServer, read: Read
) -> None:
    server.knobs.script = {"file": ["expired", "503"]}
    list(read(server))
    keyed = {asked.what for asked in server.asked if "x-token" in asked.headers}
    assert keyed == {
        "datasets",
        "dataset",
        "segments",
        "data/details",
        "data/urls",
        "labels/catalogs",
    }
    assert all(
        server.key not in str(asked.headers) for asked in server.asked if asked.what == "file"
    )


def test_the_sdk_says_who_asks(server: TensorBayServer, read: Read) -> None:
    list(read(server))
    assert server.asked[0].headers["x-source"].startswith("PYTHON-SDK/1.")


def test_the_key_does_not_follow_a_redirect_to_another_host(serve: Serve, read: Read) -> None:
    server, elsewhere = serve(), serve()
    server.knobs.redirect, server.knobs.script = (
        elsewhere.url.rstrip("/"),
        {"datasets": ["redirect"]},
    )
    with pytest.raises(SourceError, match="HTTP 401"):
        list(read(server))
    assert len(elsewhere.asked) == 1
    assert "x-token" not in elsewhere.asked[0].headers


def test_nothing_of_netrc_is_sent(server: TensorBayServer, read: Read) -> None:
    path = Path("~/.netrc").expanduser()
    path.parent.mkdir(exist_ok=True)
    path.write_text("machine 127.0.0.1 login me password hidden\n")
    path.chmod(0o600)
    assert len(list(read(server))) == 18
    assert all("authorization" not in asked.headers for asked in server.asked)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home, as in some containers."""

    def unknown(_: int) -> Any:
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "KERAS_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("homeless")
def test_who_has_no_home_has_no_profile() -> None:
    with pytest.raises(ConfigurationError, match="TensorBay needs an access key"):
        found()


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize(
    "ask", [user_cache, keras_cache, lambda: expanded("~/x"), lambda: list(Flower17())]
)
def test_who_has_no_home_is_told_what_to_set(ask: Callable[[], Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Set HOME, or give the folder: cache_dir or root"):
        ask()
