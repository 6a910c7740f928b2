"""The report as one page for a browser, with all that it needs inside it."""

import base64
import hashlib
import json
from importlib.resources import files

import jinja2
from markupsafe import Markup

from graft.eval.report.contents import Contents
from graft.eval.report.interactive import figure
from graft.eval.report.pictures import caption
from graft.eval.report.styles import DARK_ON_LIGHT, LIGHT_ON_DARK

_TEMPLATES = files("graft.eval.report") / "templates"


def page(contents: Contents) -> str:
    """Lay a report out as HTML.

    Everything that comes from a user is escaped by the template, or, in the data of the pictures, written as JSON
    without any character that HTML gives a meaning to. The page's policy lets a browser run its own two scripts and
    load nothing.

    Args:
        contents: What stands in it.
    """
    from plotly.offline import get_plotlyjs

    plotly, own = get_plotlyjs(), _template("report.js")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_template("report.html.j2")).render(
        contents=contents,
        captions=_captions(contents),
        plotly=Markup(plotly),  # noqa: S704 - a package's own code
        script=Markup(own),  # noqa: S704 - ours
        style=Markup(_template("report.css") + _palette()),  # noqa: S704 - ours
        policy=_policy(plotly, own),
        specs=Markup(_json({picture.name: figure(picture) for picture in contents.all_pictures})),  # noqa: S704 - escaped
    )


def _captions(contents: Contents) -> dict[str, str]:
    known: set[str] = set()
    return {picture.name: caption(picture, known) for picture in contents.all_pictures}


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _palette() -> str:
    """Colours of the methods, for both schemes."""

    def rules(colours: tuple[str, ...]) -> str:
        return " ".join(f"--m{number}: {colour};" for number, colour in enumerate(colours))

    dark = rules(LIGHT_ON_DARK)
    return (
        f":root {{ {rules(DARK_ON_LIGHT)} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def _policy(*scripts: str) -> str:
    """Which content a browser may run or load: these scripts and no others, and nothing from anywhere."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    rules = ("default-src 'none'", f"script-src {allowed}", "style-src 'unsafe-inline'", "img-src data:")
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))


def _json(value: object) -> str:
    """JSON that stands safely inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
