"""What of a node's environment says where weights come from and with which credentials; engines themselves get none of it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from plenum.adapters.weights.allowed import ALLOWED

CAP = "PLENUM_WEIGHTS_CAP"
"""Most bytes that a node's cache of weights holds, such as ``500GB``."""

PLACES = (
    "HF_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", "SSL_CERT_FILE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", CAP, ALLOWED,
)  # fmt: skip

CREDENTIALS = (
    "HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "DOCKER_CONFIG",
)  # fmt: skip


def staging_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return those of a node's variables that staging goes by."""
    return {name: env[name] for name in (*PLACES, *CREDENTIALS) if name in env}


def forget_credentials(env: MutableMapping[str, str]) -> None:
    """Remove what was for staging alone, before an engine is started whose arguments or model code a tenant chose."""
    for name in CREDENTIALS:
        env.pop(name, None)
