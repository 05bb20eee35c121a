"""The report as one page that opens from a file: no request leaves it, and no name in it becomes markup."""

import base64
import hashlib
import importlib.metadata
import json
from importlib.resources import files
from typing import Any

import fastvit_bench
from fastvit_bench.files import MARK
from fastvit_bench.render import colours
from fastvit_bench.render.charts import Chart
from fastvit_bench.render.page.content import KINDS, Content
from fastvit_bench.store.cache import Cache

_HEADINGS = {
    "START": "How to measure your own",
    "VERDICTS": "Verdicts of comparisons",
    "STUDIES": "What the studies say",
    "FIGURES": "Every figure",
    "METHODS": "How it was measured",
}
BUNDLE = "window.vegaEmbed = vegaEmbed;"  # all that the page's own script calls


def html(content: Content, figures: list[Chart], bundle: str) -> str:
    """Return the page. `bundle` is the JavaScript that draws (see `bundle`).

    Names reach the page in two ways: through the template, which escapes them, and as JSON, whose angle brackets are
    escaped and which the script only ever writes as text. The content security policy names the two scripts by their
    hashes and allows nothing to be fetched, from anywhere.
    """
    import jinja2

    folder = files("fastvit_bench.render.page")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    program = (folder / "page.js").read_text(encoding="utf-8")
    style = (folder / "page.css").read_text(encoding="utf-8")
    for theme in ("light", "dark"):
        style = style.replace(f"/* series: {theme} */", colours.css(theme))
    scripts = [_inline(bundle), _inline(program)]
    by_kind = {
        kind: [
            {"choice": figure.choice, "title": figure.title, "caption": figure.caption, "spec": figure.spec}
            for figure in figures
            if figure.kind == kind
        ]
        for kind in KINDS
    }
    data = {"figures": by_kind, "tables": content.tables, "conditions": content.conditions}
    from markupsafe import Markup

    sections = [(kind, heading, by_kind[kind]) for kind, heading in KINDS.items() if by_kind[kind]]
    return template.render(
        content=content,
        contents=_contents(content, [(kind, heading) for kind, heading, _ in sections]),
        **_HEADINGS,
        generator=f"{MARK.decode()} {fastvit_bench.__version__}",
        sections=sections,
        style=Markup(style),
        bundle=Markup(scripts[0]),
        program=Markup(scripts[1]),
        data=Markup(in_script(data)),
        policy=_policy(scripts),
    )


def _contents(content: Content, sections: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the anchor and the heading of every section, from the top of the page to its bottom."""
    return [
        *([("start", _HEADINGS["START"])] if content.advice else []),
        *sections,
        *([("verdicts", _HEADINGS["VERDICTS"])] if content.cards else []),
        *([("studies", _HEADINGS["STUDIES"])] if content.studies else []),
        *([("table", _HEADINGS["FIGURES"])] if content.tables["figures"]["rows"] else []),
        ("how", _HEADINGS["METHODS"]),
    ]


def bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, which vl-convert carries and joins without a network."""

    def joined() -> bytes:
        import vl_convert

        return vl_convert.javascript_bundle(BUNDLE).encode()

    version = importlib.metadata.version("vl-convert-python")
    with Cache() as cache:
        return cache.remembered("bundle", f"{version} {BUNDLE}".encode(), joined).decode()


def in_script(value: Any) -> str:
    """Return JSON for the inside of a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":  # only strings can hold these
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _inline(script: str) -> str:
    """Return a script as it may stand between its tags; browsers hash it with its line ends as line feeds."""
    text = script.replace("\r\n", "\n").replace("\r", "\n")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: list[str]) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        f"base-uri 'none'; form-action 'none'"
    )
