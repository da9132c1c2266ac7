"""Makes the pages in the repository work as a site: files from outside docs/ and the links to them.

Pages link to files of the repository by relative paths. Some of these files are part of the site under another name;
a link to any other one becomes its text.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
#: path in the repository -> path in the site; all other pages are in docs/
ADDED = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "results/report/index.html": "results/index.html",
    "results/report/report.md": "results/index.html",
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the files of the repository that belong to the site."""
    for source, target in ADDED.items():
        if files.get_file_from_path(target) is None:
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at the site's own files."""
    target = page.file.src_uri
    source = next((path for path, added in ADDED.items() if added == target), f"docs/{target}")
    return LINK.sub(lambda match: _link(match, source, target, files), markdown)


def _link(match: re.Match[str], source: str, target: str, files: Files) -> str:
    text, path, anchor = match[1], match[2], match[3] or ""
    linked = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if not (ROOT / linked).exists():
        return match[0]  # mkdocs reports it
    site_path = ADDED.get(linked, linked.removeprefix("docs/"))
    if linked not in ADDED and (not linked.startswith("docs/") or files.get_file_from_path(site_path) is None):
        return text
    return f"[{text}]({posixpath.relpath(site_path, posixpath.dirname(target) or '.')}{anchor})"
