"""Coders of every kind from one set of settings."""

from dataclasses import fields
from typing import Any

from sae_dist.coders import CoderConfig, Form, kind_named

KINDS = ("jumprelu", "topk", "batchtopk")  # those that formats of others can hold
FORMS = tuple(form for form in Form if not form.spans_sites)  # the arithmetic of others is theirs


def config_of_kind(kind: str, **settings: Any) -> CoderConfig:
    """A configuration of a kind, with those of the settings that it has."""
    chosen = kind_named(kind)
    names = {field.name for field in fields(chosen)}
    return chosen(**{name: value for name, value in settings.items() if name in names})
