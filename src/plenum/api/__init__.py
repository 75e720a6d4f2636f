"""The control API over HTTP: who may do what, resources in and out, the log as a stream.

Way in: :func:`~plenum.api.app.create_app`, which takes a :class:`~plenum.control.service.Service` and
:class:`~plenum.api.settings.ApiSettings`. All routes stand in :mod:`~plenum.api.routes`; who may do what in ``policies.cedar``.
"""

from plenum.api.app import create_app
from plenum.api.identity import Secret, hash_of, new_secret
from plenum.api.settings import ApiSettings, ClaimGrant, JwtIssuer, Rate

__all__ = ["ApiSettings", "ClaimGrant", "JwtIssuer", "Rate", "Secret", "create_app", "hash_of", "new_secret"]
