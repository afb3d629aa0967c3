"""What a shell may offer for the word that is being typed."""

from __future__ import annotations

from tenshot.cli import verbs

ASKED = "--complete"  #: the word by which a shell asks; the line so far is in its environment
_BASH = f"complete -o default -C 'tenshot {ASKED}' tenshot"
SCRIPTS = {  #: shell -> what it reads to complete words
    "bash": f'# eval "$(tenshot --show-completion)" in ~/.bashrc\n{_BASH}',
    "zsh": f'# eval "$(tenshot --show-completion)" in ~/.zshrc\nautoload -U +X bashcompinit && bashcompinit\n{_BASH}',
    "fish": "# tenshot --show-completion | source in ~/.config/fish/config.fish\n"
    f"complete -c tenshot -a '(env COMP_LINE=(commandline -cp) tenshot {ASKED})'",
}


def completed(line: str) -> list[str]:
    """What the last word of a command line may become: a verb, an option, or a choice of one."""
    words = line.split()[1:]
    last = words.pop() if words and not line[-1].isspace() else ""
    path, rest = verbs.find(words)
    if path not in verbs.VERBS:
        offered = [each[len(path)] for each in verbs.VERBS if each[: len(path)] == path]
    else:
        from tenshot.core.options import entries

        kind = verbs.load(verbs.VERBS[path].options)
        known = entries(kind)
        entry = known.get(rest[-1].removeprefix("--").replace("-", "_")) if rest else None
        offered = entry.choices if entry else []
        if last.startswith("--"):
            offered = [f"--{name}" for name in (*known, *kind.recipes, "json", "help")]
    return [each for each in dict.fromkeys(offered) if each.startswith(last)]
