from __future__ import annotations

import warnings

import pytest

from rtl.config import loading
from rtl.config.schema import ServeConfig
from rtl.errors import ConfigError

with warnings.catch_warnings():
    # Ray Serve's own config classes use a form of `Field` that pydantic 2 deprecates.
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`")
    from rtl.serving import deployment
    from rtl.serving.application import Arguments

ORIGINS = (
    "*",
    "https://shop.example",
    "http://localhost:5173",
    "http://[::1]:8080",
    "chrome-extension://abcdefgh",
)


def test_origins_are_read_from_a_recipe_and_from_the_arguments_of_an_application() -> None:
    assert loading.load(overrides=[f"serve.cors_origins={list(ORIGINS)}"]).serve.cors_origins == (
        ORIGINS
    )
    given = {"storage": "s", "model": "m", "serve": {"cors_origins": list(ORIGINS)}}
    assert Arguments.model_validate(given).serve.cors_origins == ORIGINS  # as Ray Serve does
    assert ServeConfig().cors_origins == ()


def test_other_origins_ask_for_new_replicas() -> None:
    assert deployment.replica_version(ServeConfig(), None) != deployment.replica_version(
        ServeConfig(cors_origins=("*",)), None
    )


@pytest.mark.parametrize(
    "origin",
    [
        "", "shop.example", "https://shop.example/", "https://shop.example/app", "https://",
        "https://Shop.example", "https://*.example", "https://shop.example:443",
        "http://shop.example:80", "https://shop.example:0", "https://a b", "https://münchen.example",
        "null", "https://a.example,https://b.example", "https://user@shop.example",
    ],
)  # fmt: skip
def test_what_no_browser_sends_as_its_origin_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loading.load(overrides=[f"serve.cors_origins=['{origin}']"])
    message = str(refused.value)
    assert message.startswith(f"serve: cors_origins holds {origin!r}; an origin is scheme://host ")
    assert message.endswith("write it as https://shop.example, or * for all.")


@pytest.mark.parametrize("value", ["https://shop.example", "[1]", "{a: b}", "null"])
def test_origins_are_a_list_of_texts(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^serve\.cors_origins"):
        loading.load(overrides=[f"serve.cors_origins={value}"])
