"""The templates of a page, which escape what they are given."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Environment(
    loader=PackageLoader("fastreid.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def fill(template: str, **values: object) -> Markup:
    """Return a file of templates/ with values filled in: text is escaped, what another template gave is not."""
    return Markup(TEMPLATES.get_template(template).render(values))
