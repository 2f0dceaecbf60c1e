"""The theme's icons as two small fonts: of Font Awesome's 2,000 only those that the theme names.

The theme loads all of Font Awesome, 1.9 MB on every page. These subsets of its fonts hold what the theme's templates,
scripts and styles name, so nobody keeps a list by hand.
"""

import re
import shutil
from pathlib import Path

import pydata_sphinx_theme
import sphinx_book_theme
from fontTools import subset
from sphinx.application import Sphinx

FONTS = {"solid": ("fa-solid-900.ttf", "Free", 900), "brands": ("fa-brands-400.ttf", "Brands", 400)}
PROVIDERS = {"fa-github", "fa-gitlab", "fa-bitbucket"}  # the theme assembles these names
NAME = re.compile(r"\bfa-[a-z][a-z0-9-]*")
RULE = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}')
CODE = re.compile(r'content:\s*"\\([0-9a-f]{4})"|([\ue000-\uf8ff])')
STYLE = """/* Made at build time of Font Awesome Free 6 by @fontawesome - https://fontawesome.com
   License - https://fontawesome.com/license/free (Icons: CC BY 4.0, Fonts: SIL OFL 1.1, Code: MIT License) */
:root {{
  --fa-font-solid: normal 900 1em/1 "Font Awesome 6 Free";
  --fa-font-brands: normal 400 1em/1 "Font Awesome 6 Brands";
}}
.fas, .fa-solid, .fab, .fa-brands {{
  -webkit-font-smoothing: antialiased;
  display: inline-block;
  font-style: normal;
  line-height: 1;
}}
.fas, .fa-solid {{ font-family: "Font Awesome 6 Free"; font-weight: 900; }}
.fab, .fa-brands {{ font-family: "Font Awesome 6 Brands"; font-weight: 400; }}
.fa-lg {{ font-size: 1.25em; line-height: 0.05em; vertical-align: -0.075em; }}
{faces}
{icons}
"""


def asked_for(packages: list[Path], codes: dict[str, str]) -> dict[str, str]:
    """Return the icons that themes name, as {name: code}; a code that occurs only in a style sheet is its own name.

    packages: the folders of the themes.
    codes: {name: code} of all icons.
    """
    names = PROVIDERS & set(codes)
    bare: set[str] = set()
    for path in (path for package in packages for path in sorted(package.rglob("*"))):
        if path.suffix not in (".html", ".py", ".js", ".css") or "fontawesome" in path.parts:
            continue
        text = path.read_text("utf-8")
        names |= set(NAME.findall(text)) & set(codes)
        if path.suffix == ".css":
            bare |= {code or f"{ord(sign):x}" for code, sign in CODE.findall(text)}
    icons = {name: codes[name] for name in sorted(names)}
    return icons | {code: code for code in sorted(bare & set(codes.values()) - set(icons.values()))}


def icon_codes(style: str) -> dict[str, str]:
    """Return {name: code} of all icons of Font Awesome's style sheet ``style``."""
    return {name: code for names, code in RULE.findall(style) for name in NAME.findall(names)}


def write_icons(app: Sphinx, failure: Exception | None) -> None:
    """Replace Font Awesome in the pages by the small fonts and their style sheet, after a build that did not fail.

    Its license is copied beside them.
    """
    if failure is not None or app.builder.format != "html":
        return
    packages = [Path(theme.__file__).parent for theme in (pydata_sphinx_theme, sphinx_book_theme)]
    (source,) = (packages[0] / "theme" / "pydata_sphinx_theme" / "static" / "vendor" / "fontawesome").iterdir()
    icons = asked_for(packages, icon_codes((source / "css" / "all.min.css").read_text("utf-8")))
    target = Path(app.outdir) / "_static" / "icons"
    shutil.rmtree(Path(app.outdir) / "_static" / "vendor" / "fontawesome", ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    faces = []
    for name, (file, family, weight) in FONTS.items():
        write_subset(source / "webfonts" / file, target / f"{name}.woff", set(icons.values()))
        families = ["Font Awesome 6 " + family, *(["Font Awesome 5 Free"] if name == "solid" else [])]
        faces += [
            f'@font-face {{ font-family: "{title}"; font-weight: {weight}; src: url("{name}.woff") format("woff"); }}'
            for title in families
        ]
    named = [
        f'.{name}::before {{ content: "\\{code}"; content: "\\{code}" / ""; }}'  # the second: screen readers skip it
        for name, code in icons.items()
        if name != code
    ]
    (target / "icons.css").write_text(STYLE.format(faces="\n".join(faces), icons="\n".join(named)), "utf-8")
    shutil.copy2(source / "LICENSE.txt", target)


def write_subset(source: Path, target: Path, codes: set[str]) -> None:
    """Write a font with only some of its signs.

    source: the whole font.
    target: where the new one goes, in the format WOFF.
    codes: the signs to keep, as hexadecimal numbers; those that the font lacks are left out.
    """
    options = subset.Options(flavor="woff", layout_features=[], notdef_outline=False)
    font = subset.load_font(str(source), options)
    chosen = subset.Subsetter(options)
    chosen.populate(unicodes=[int(code, 16) for code in codes])
    chosen.subset(font)
    subset.save_font(font, str(target), options)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add this extension; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.connect("build-finished", write_icons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
