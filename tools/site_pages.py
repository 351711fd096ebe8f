"""Pages of the site that no file of docs/ holds, and links that lead to the same places as in the repository.

mkdocs.yml names this file as a hook. README.md is the front page, and the reference is made from the docstrings of the
public names and from the parser of the command line.
"""

import argparse
import json
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "src"))

import qvtune  # noqa: E402
from qvtune.cli.main import build_parser  # noqa: E402
from qvtune.training.schema import config_schema  # noqa: E402

# Files of the repository that the site has under another name; a file of docs/ keeps its own.
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/index.md": "questions.md",
}
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
OPTION = re.compile(r"(?<![\w`-])(--[a-z][a-z0-9-]*)")
SPECIAL = re.compile(r"([\\*_<>\[\]|`])")


def with_links(text: str, source: str) -> str:
    """Return a page of the repository with its links as the site has them.

    A link whose words are the name of a file gets the title of that page for its words.

    Args:
        text: the page.
        source: its path in the repository.
    """
    here = posixpath.dirname(_on_site(source))

    def moved(link: re.Match[str]) -> str:
        words, path, anchor = link.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if words.endswith(".md"):
            words = _title(target)
        return f"[{words}]({posixpath.relpath(_on_site(target), here or '.')}{anchor or ''})"

    return LINK.sub(moved, text)


def _title(path: str) -> str:
    """Return the heading of a page of the repository."""
    return (REPOSITORY / path).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _on_site(path: str) -> str:
    return MOVED.get(path, path.removeprefix("docs/"))


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command that does something, as in "theory bound", with its parser."""
    yield from _commands_of(build_parser(), "")


def _commands_of(parser: argparse.ArgumentParser, before: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield before.strip(), parser
    for action in nested:
        for name, part in action.choices.items():
            yield from _commands_of(part, f"{before} {name}")


def command_page(name: str, parser: argparse.ArgumentParser) -> str:
    """Return the page of a command: what it does, and every option with its help.

    Options that are the same as those of `train` are named, with a link to them there.
    """
    usage = " ".join(parser.format_usage().removeprefix("usage: ").replace("[-h] ", "").split())
    parts = [f"# qvtune {name}", _text(parser.description or ""), _block(usage)]
    if parser.epilog:
        example, _, rest = parser.epilog.replace("%%", "%").removeprefix("Example: ").partition(". ")
        parts += ["For example:", _block(example)] if parser.epilog.startswith("Example: ") else [_text(example)]
        parts += [_text(rest)] if rest else []
    of_train = {} if name == "train" else _groups(dict(commands())["train"])
    for title, actions in _groups(parser).items():
        shown = title[:1].upper() + title[1:]
        entries = [_entry(action) for action in actions]
        if [_entry(action) for action in of_train.get(title, ())] == entries:
            names = ", ".join(f"`{action.option_strings[0]}`" for action in actions)
            parts.append(f"## {shown}\n\n{names}: see [qvtune train](train.md#{_slug(shown)}).")
        else:
            parts.append("\n\n".join([f"## {shown}", *entries]))
    if name == "schema":
        parts.append("The schema of this version: [qvtune.schema.json](../qvtune.schema.json).")
    return "\n\n".join(parts) + "\n"


def _block(words: str) -> str:
    return f"```bash\n{words}\n```"


def _groups(parser: argparse.ArgumentParser) -> dict[str, list[argparse.Action]]:
    groups = {
        (group.title or "").removeprefix("positional "): [each for each in group._group_actions if each.dest != "help"]
        for group in parser._action_groups
    }
    return {title: actions for title, actions in groups.items() if actions}


def _slug(title: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.lower()))


def _entry(action: argparse.Action) -> str:
    """Return an option as the entry of a definition list."""
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest
    if action.choices and not action.metavar:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    takes_value = action.nargs != 0
    names = [f"{name} {metavar}" if takes_value else name for name in action.option_strings] or [metavar]
    about = (action.help or "") % {**vars(action), "prog": "qvtune"}
    return f"{', '.join(f'`{name}`' for name in names)}\n:   {_text(about)}"


def _text(words: str) -> str:
    """Return plain text as Markdown that shows it as it is, with options as code."""
    return OPTION.sub(r"`\1`", SPECIAL.sub(r"\\\1", " ".join(words.split())))


def name_pages() -> dict[str, str]:
    """Return the pages of the public names, from which mkdocstrings makes the text, by their paths."""
    kinds = {"functions": ("Functions", str.islower), "classes": ("Classes", str.isupper)}
    pages = {}
    for page, (title, belongs) in kinds.items():
        names = [name for name in qvtune.__all__ if belongs(name[0])]
        pages[f"reference/{page}.md"] = "\n\n".join([f"# {title}", *(f"::: qvtune.{name}" for name in names)]) + "\n"
    return pages


def command_pages() -> dict[str, str]:
    """Return the page of every command, by its path."""
    return {
        f"reference/commands/{name.replace(' ', '-')}.md": command_page(name, parser) for name, parser in commands()
    }


def moved_pages() -> dict[str, str]:
    """Return the pages that have another name on the site, by their paths there, with links as in the repository."""
    return {there: (REPOSITORY / here).read_text(encoding="utf-8") for here, there in MOVED.items()}


def on_config(config: Any) -> Any:
    """Put the pages of the reference into the navigation; called by mkdocs."""
    part = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    verbs = [{f"qvtune {name}": f"reference/commands/{name.replace(' ', '-')}.md"} for name, _ in commands()]
    part[:0] = [{"Functions": "reference/functions.md"}, {"Classes": "reference/classes.md"}, {"Commands": verbs}]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that no file of docs/ holds; called by mkdocs."""
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_uri == "index.md"]:
        files.remove(file)
    for path, text in {**moved_pages(), **name_pages(), **command_pages()}.items():
        files.append(File.generated(config, path, content=text))
    schema = json.dumps(config_schema(), indent=2)
    files.append(File.generated(config, "reference/qvtune.schema.json", content=schema))
    return files


def on_page_markdown(text: str, page: Any, config: Any, files: Any) -> str:
    """Set the links of a page; called by mkdocs."""
    path = page.file.src_uri
    if path.startswith("reference/"):
        return text
    source = {there: here for here, there in MOVED.items()}.get(path, f"docs/{path}")
    if path == "index.md":
        page.meta["hide"] = ["navigation"]
    return with_links(text, source)
