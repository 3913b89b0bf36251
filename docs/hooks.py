"""What the documentation site needs beyond mkdocs: pages that lie elsewhere in the repository, and the API reference.

Every link in our Markdown is relative to its file in the repository, so it works where the files are read; here the
same links are made to lead to the pages of the site. What they name must exist, or the build fails.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "benchmarks/results"
FROM_ELSEWHERE = {"README.md": "index.md", "kernels/README.md": "kernels/README.md"}
"""File of the repository that is a page -> its place in the site; what lies in `docs/` and RESULTS has its own."""
CODE = {"mtkd_dist": "mtkd_dist", "kernels/mtkd_kernels": "mtkd_kernels", "tune/mtkd_tune": "mtkd_tune"}
"""Folder of a package -> its name."""

# [text](target), also of an image.
_LINK = re.compile(r"(\[(?:[^\[\]]|\[[^\[\]]*\])*\])\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that lie outside `docs/`, the measured results, and a page of reference for each package."""
    for source, page in FROM_ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    results = sorted((ROOT / RESULTS).iterdir())
    for path in results:
        files.append(File.generated(config, f"{RESULTS}/{path.name}", abs_src_path=str(path)))
    listed = "".join(f"- [{path.stem}]({path.name})\n" for path in results if path.suffix == ".md")
    files.append(File.generated(config, f"{RESULTS}/index.md", content=f"# Measured results\n\n{listed}"))
    packages = _packages()
    for package, modules in packages.items():
        content = f"# {package}\n\n" + "".join(f"::: {module}\n\n" for module in modules)
        files.append(File.generated(config, f"reference/{package}.md", content=content))
    listed = "".join(f"- [`{package}`]({package}.md)\n" for package in packages)
    files.append(File.generated(config, "reference/index.md", content=f"# Reference\n\nOf all packages.\n\n{listed}"))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Links to files of the repository become links to pages; those to code lead into the reference."""
    here = page.file.src_uri
    return _LINK.sub(lambda found: f"{found[1]}({_target(found[2], here)})", markdown)


def _target(link: str, here: str) -> str:
    """`link` as it stands in the repository -> as it must stand on the page `here`. What is unknown stays as it is."""
    path, mark, heading = link.partition("#")
    if not path or ":" in path or here.startswith("reference/"):
        return link
    source = posixpath.normpath(posixpath.join(posixpath.dirname(_source_of(here)), path))
    if not (ROOT / source).exists():
        return link
    page = _page_of(source)
    return posixpath.relpath(page, posixpath.dirname(here)) + mark + heading if page else link


def _source_of(page: str) -> str:
    """File of the repository that is the page."""
    elsewhere = {page: source for source, page in FROM_ELSEWHERE.items()}
    return elsewhere.get(page) or (page if page.startswith(RESULTS) else f"docs/{page}")


def _page_of(source: str) -> str | None:
    if source in FROM_ELSEWHERE:
        return FROM_ELSEWHERE[source]
    if source == RESULTS:
        return f"{RESULTS}/index.md"
    for folder, name in CODE.items():
        if source == folder or source.startswith(f"{folder}/"):
            module = source.replace(folder, name, 1).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            package = module if (ROOT / source).is_dir() else module.rpartition(".")[0]
            return f"reference/{package}.md"
    return source.removeprefix("docs/") if source.startswith(("docs/", RESULTS)) else None


def _packages() -> dict[str, list[str]]:
    """Name of each package -> its modules, itself first."""
    found: dict[str, list[str]] = {}
    for folder, name in CODE.items():
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            package = ".".join([name, *init.parent.relative_to(ROOT / folder).parts])
            modules = (path.stem for path in sorted(init.parent.glob("*.py")))
            found[package] = [package] + [f"{package}.{one}" for one in modules if not one.startswith("__")]
    return found
